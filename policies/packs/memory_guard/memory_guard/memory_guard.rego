# What may be remembered on whose word: source by kind by scope.
#
# A text that a tool brought becomes no procedure, and nothing that holds for everybody, until a second source or a
# person says the same. The gateway judges who says it, and counts the sources; this says what follows.
# ../README.md has what to edit.
package rules.memory_guard

import future.keywords.not

memory := input.resource.properties.catalog.memory

# ---- what is written ----

# People look at it before anybody reads it: the gateway takes this label as its word.
label contains "quarantine" if {
	writes
	doubtful
	some entry in data.memory_guard.review
	fits(entry)
}

deny contains {
	"code": "not_on_this_word",
	"message": "such a record needs a second source, or a person",
	"public": true,
	"remedy": "have a person write it over HTTP, or keep it for yourself (scope agent, kind semantic)",
} if {
	writes
	doubtful
	some entry in data.memory_guard.never
	fits(entry)
}

deny contains {
	"code": "disguised",
	"message": "the text is made to be read otherwise than it looks",
	"public": true,
	"remedy": "write plain text, without invisible letters and marks of roles",
} if {
	writes
	some found in memory.findings
	found in data.memory_guard.refused
}

# ---- what is there already ----

# Neither forgotten nor replaced by whoever is worth less.
deny contains {
	"code": "record_protected",
	"message": "the record is worth more than the word of whoever would change it",
	"public": true,
	"remedy": "ask a person, or do it in a session that has read nothing untrusted",
} if {
	changes
	memory.source in data.memory_guard.machines
	memory.of.trust >= data.memory_guard.protected
}

# ---- where it is ----

deny contains {
	"code": "residency",
	"message": concat("", ["what is kept in ", memory.residency, " is for others"]),
	"public": true,
	"remedy": "ask for a role that may use it (memory_guard/data.json)",
} if {
	memory.residency != ""
	not at_home
}

at_home if {
	some role in input.subject.properties.roles
	role in data.memory_guard.residency[memory.residency]
}

# Without the data nothing would be doubtful.
deny contains {
	"code": "memory_not_configured",
	"message": "this pack does not know what has to be looked at",
	"public": true,
	"remedy": "put memory_guard/data.json beside the rules, with `review`, `never`, `refused`, `machines` and `protected`",
} if {
	input.action.name in {"memory.delete", "memory.write"}
	not configured
}

configured if {
	is_array(data.memory_guard.review)
	is_array(data.memory_guard.never)
	is_array(data.memory_guard.refused)
	is_array(data.memory_guard.machines)
	is_number(data.memory_guard.protected)
}

# ---- words ----

writes if {
	input.action.name == "memory.write"
	input.action.properties.method in {"memory/remember", "memory/revise"}
}

changes if input.action.name == "memory.delete"

changes if input.action.properties.method == "memory/revise"

doubtful if {
	memory.person != true
	memory.sources < 2
	memory.kind != "scratch"
}

fits(entry) if {
	among(entry, "source")
	among(entry, "scope")
	among(entry, "kind")
	among(entry, "namespace")
}

among(entry, part) if not entry[part]

among(entry, part) if memory[part] in entry[part]

# What `interlock up` runs: nothing is allowed unless it is granted here or in grants/data.json.
#
# Roles come with the caller's key or token. What a role may use stands in grants/data.json, as
# role -> upstream -> patterns of names. Under the built-in upstream `sandbox` these are the names of its tools and
# of the environments that code runs in, under a provider of models those of its models, under `models` those of routes
# (`auto*`). ../README.md says how to write rules of your own.
package rules.starter

import future.keywords.not

default allow := false

# The usual comes first: what follows a link that holds is not asked. Rules of your own need not stand in this chain.
#
# What is granted to one of the caller's roles may be used.
allow if {
	input.action.name in {
		"mcp.completion.complete",
		"mcp.prompts.get",
		"mcp.resources.read",
		"mcp.resources.subscribe",
		"mcp.tools.call",
		"model.call",
		"sandbox.exec",
	}
	some role in input.subject.properties.roles
	grants := data.grants[role]
	some upstream in [input.resource.properties.upstream, "*"]
	some pattern in grants[upstream]
	glob.match(pattern, null, input.resource.properties.name)
} else if {
	# Upstreams that are labelled as test material are open to the role of those who test with them, callbacks too. The
	# world outside is no such upstream, whatever labels it may come with.
	"conformance" in input.resource.properties.catalog.labels
	"dev" in input.subject.properties.roles
	input.action.name != "egress.connect"
} else if {
	# Everybody who is somebody may ask what there is; each list then shows what the same person may use.
	input.action.name in {
		"mcp.discover",
		"mcp.initialize",
		"mcp.logging.set_level",
		"mcp.prompts.list",
		"mcp.resources.list",
		"mcp.subscriptions.listen",
		"mcp.templates.list",
		"mcp.tools.list",
		"model.list",
	}
	input.subject.id != ""
} else if {
	# An agent is granted as a whole (`"NAME": ["*"]`): asking it, and what its caller's own tasks need. Whose a task
	# is the gateway sees to.
	input.action.properties.protocol == "a2a"
	some role in input.subject.properties.roles
	some upstream in [input.resource.properties.upstream, "*"]
	"*" in data.grants[role][upstream]
} else if {
	# Memory is granted by namespace, as far as it is in the caller's reach, and never as a whole: that is for operators.
	input.action.name in {"memory.delete", "memory.read", "memory.write"}
	not input.resource.properties.catalog.memory.whole
	some role in input.subject.properties.roles
	some upstream in [input.resource.properties.upstream, "*"]
	some pattern in data.grants[role][upstream]
	glob.match(pattern, null, input.resource.properties.name)
} else if {
	# Operators see every held call, set and clear kill switches, see and reset budgets, and have what concerns all that
	# a tenant's memory holds: the review queue, rollback, erasure, import. A vote needs more than that: see the library.
	input.action.name in {
		"approvals.list",
		"approvals.read",
		"budgets.list",
		"budgets.read",
		"budgets.reset",
		"memory.delete",
		"memory.read",
		"memory.write",
		"switches.clear",
		"switches.list",
		"switches.set",
	}
	some role in input.subject.properties.roles
	role in {"interlock-admin", "operator"}
} else if {
	# Everybody who is somebody may see what is left of their own budgets.
	input.action.name == "budgets.list"
	input.resource.properties.arguments.scope == "mine"
	input.subject.id != ""
} else if {
	# The catalogue of agents and servers shows what its reader may use, as lists do.
	input.action.name == "a2a.card.read"
	input.action.properties.method == "catalog/read"
	input.subject.id != ""
} else if {
	# A server may ask the user something in a form that the client draws. Sampling, the list of roots and forms on a
	# web page of the server's choosing stay denied: see the README for how to allow them.
	input.action.name == "mcp.elicitation.create"
	input.resource.properties.mode == "form"
	input.subject.id != ""
} else if {
	# Other enforcement points may ask what policy says (AuthZEN).
	input.action.name == "authzen.evaluate"
	some role in input.subject.properties.roles
	role in {"interlock-admin", "pep"}
}

# What somebody knows is not taken away by whoever has read untrusted text.
deny contains {
	"code": "memory_protected",
	"message": "this session has read untrusted content, and the record is worth more than what it says",
	"public": true,
	"remedy": "do it in a session of its own, or ask a person",
} if {
	input.action.name == "memory.delete"
	input.resource.properties.catalog.memory.source == "tool"
	input.resource.properties.catalog.memory.of.trust > 30
}

# What a model is asked may be longer than a question to these rules can be. None of them reads it: who may ask which
# model is all that they decide.
accepts_truncated if input.action.name == "model.call"

# No rule here allows `egress.connect`: what runs in a sandbox reaches no host at all. ../README.md says how to grant
# some to one call, and ../examples/sandboxed does it.

remedy contains "ask for a role that is granted it (grants/data.json), and use what the list shows until then" if {
	input.action.name != "egress.connect"
}

remedy contains "ask for an egress obligation that grants the call this host" if input.action.name == "egress.connect"

# What looks destructive is for administrators. Risk and labels are ours (interlock.toml), never the server's claim.
deny contains {
	"code": "needs_admin",
	"message": "this is marked as able to destroy something",
	"public": true,
	"remedy": "ask somebody with the role admin",
} if {
	destructive
	not "admin" in input.subject.properties.roles
}

destructive if input.resource.properties.catalog.risk == "high"

destructive if "destructive" in input.resource.properties.catalog.labels

# Changing a repository takes a role of its own, whatever the grants say.
deny contains {
	"code": "needs_writer",
	"message": "this changes the repository",
	"public": true,
	"remedy": "use a key with the role writer",
} if {
	writing
	not writer
}

writing if {
	input.resource.properties.upstream == "git"
	input.resource.properties.name in {"git_add", "git_checkout", "git_commit", "git_create_branch", "git_reset"}
}

writer if {
	some role in input.subject.properties.roles
	role in {"admin", "writer"}
}

# In a list there are no arguments, so this rule is silent there and does not hide the tool.
deny contains {
	"code": "path_escapes",
	"message": "a path with .. may lead out of the directory that was opened to you",
	"public": true,
	"remedy": "give the path without ..",
} if {
	input.resource.properties.upstream in {"files", "git"}
	some path in paths
	".." in split(replace(path, "\\", "/"), "/")
}

# Argument by argument: a cached decision then depends on these, and on no other argument.
paths contains path if some path in texts(input.resource.properties.arguments.path)

paths contains path if some path in texts(input.resource.properties.arguments.paths)

paths contains path if some path in texts(input.resource.properties.arguments.repo_path)

paths contains path if some path in texts(input.resource.properties.arguments.files)

paths contains path if some path in texts(input.resource.properties.arguments.source)

paths contains path if some path in texts(input.resource.properties.arguments.destination)

texts(value) := {value} if {
	is_string(value)
} else := {text | some text in value; is_string(text)} if {
	is_array(value)
}

# Keys and tokens that somebody committed do not reach the model.
obligation contains {"type": "redact", "properties": {"patterns": ["secret"]}} if {
	input.resource.properties.upstream in {"files", "git"}
}

# A change is on record, arguments included, before it is made.
obligation contains {"type": "audit", "properties": {"durable": true, "arguments": true}} if writing

# A server that keeps asking wears the user's attention down.
obligation contains {"type": "rate", "properties": {"limit": 10, "window_s": 60}} if {
	input.action.name == "mcp.elicitation.create"
	not "conformance" in input.resource.properties.catalog.labels
}

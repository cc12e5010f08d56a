# One answer from the rules of all teams.
#
# `data.interlock.decision` composes the packages `data.rules.<team>`: permit needs at least one `allow` and no
# `deny`; deny beats hold, hold beats allow; nothing else is ever a yes. `data.interlock.visible` asks the same rules
# what of a list to show. All of it is in one file because the embedded engine loses rules of a package that is
# spread over several (see "Pitfalls" in the README).
package interlock

import future.keywords.not

# What is undefined is denied: this stands where no rule below applies.
default decision := {"decision": false, "context": {"reasons": [{
	"code": "undefined",
	"message": "policy gave no answer",
	"rule": "interlock",
	"public": true,
	"remedy": "",
}]}}

# One chain, so that two answers can never conflict; the usual answer comes first, because it ends the search.
decision := {"decision": true, "context": {"obligations": obligations, "labels": labels}} if {
	permitted
} else := {"decision": false, "context": {"reasons": [reason | some reason in denials]}} if {
	count(denials) > 0
} else := {"decision": false, "context": {"reasons": [no_rule_allows]}} if {
	not allowed
} else := {"decision": false, "context": {"access_request": access_request}} if {
	count(holds) > 0
}

permitted if {
	allowed
	not denying
	not holding
	readable
}

allowed if data.rules[_].allow == true

# A connection that the call in flight was granted (obligation `egress` of its permit) needs no rule of its own, nor
# does a vote on a held call by somebody whom its `hold` names, or a look at one's own held task. The gateway says so,
# never who calls; a `deny` or `hold` about it stands above it as above any allow.
allowed if {
	input.resource.properties.granted == true
	input.action.name in grantable
}

grantable := {
	"approvals.approve",
	"approvals.deny",
	"approvals.list",
	"approvals.read",
	"egress.connect",
	"mcp.tasks.cancel",
	"mcp.tasks.get",
	"mcp.tasks.update",
}

# A `deny` or `hold` of any shape counts, unless it is plainly empty: a mistake in a rule must not lift it.
denying if {
	found := data.rules[_].deny
	not found in nothing
}

holding if {
	found := data.rules[_].hold
	not found in nothing
	not agreed(found)
}

# People agreed to just these holds. Only the gateway says so, of a call that it holds an approval for; a hold that is
# worded differently by now is another one.
agreed(found) if {
	covers := input.context.approval.covers
	is_array(covers)
	every entry in entries(found) {
		entry in covers
	}
}

# Long strings of a truncated question are digests, so that an argument rule may have looked at the wrong text:
# every rule package that has an opinion must say that it can do without them.
readable if {
	not input.resource.properties.truncated
} else if {
	count(opinions) > 0
	every team in opinions {
		data.rules[team].accepts_truncated == true
	}
}

obligations := [entry | some entry in entries(data.rules[_].obligation)]

labels := [entry | some entry in entries(data.rules[_].label)]

# The entries of a collection. Any other value, unless it is plainly empty, is one entry for whoever reads it to
# refuse.
entries(found) := found if is_set(found)

entries(found) := found if is_array(found)

entries(found) := {found} if {
	not is_set(found)
	not is_array(found)
	not found in nothing
}

nothing := {false, set(), [], {}}

# The packages that can be named: those with an `allow` (which is why `default allow := false` is asked for).
opinions contains team if {
	some team
	_ := data.rules[team].allow
}

# ---- lists ----
#
# `visible` is the set of indexes into `input.resource.properties.candidates` that the caller may use with some
# arguments: the rules answer for each candidate as for the call it stands for. Its arguments are undefined, for
# nobody knows them yet. A rule that needs them is silent, so its deny hides nothing and its allow shows nothing,
# unless the package says so with `list_allow`. What would be held for approval is shown.

# Three narrow replacements instead of one of the whole input: a cached answer then depends only on what rules read.
visible contains index if {
	is_array(input.resource.properties.candidates)
	some index, candidate in input.resource.properties.candidates
	use := stands_for[candidate.type]
	shown with input.resource as candidate
		with input.action.name as use.name
		with input.action.properties.method as use.method
}

shown if {
	listed
	not denying
}

listed if {
	data.rules[_].allow == true
} else if {
	data.rules[_].list_allow == true
}

# The call that a listed thing is there for. A thing of any other type is not shown.
stands_for := {
	"agent": {"name": "a2a.message.send", "method": "SendMessage"},
	"mcp_resource": {"name": "mcp.resources.read", "method": "resources/read"},
	"mcp_server": {"name": "mcp.initialize", "method": "initialize"},
	"memory": {"name": "memory.read", "method": "memory/recall"},
	"model": {"name": "model.call", "method": "model/call"},
	"prompt": {"name": "mcp.prompts.get", "method": "prompts/get"},
	"tool": {"name": "mcp.tools.call", "method": "tools/call"},
}

# ---- why the answer is no, and what would help; a yes evaluates none of it ----

denials contains reason if {
	some team
	some entry in entries(data.rules[team].deny)
	reason := explained(team, entry)
}

denials contains reason if {
	some team
	some entry in entries(data.rules[team].hold)
	not approvable(entry)
	reason := {
		"code": "hold_invalid",
		"message": "a rule asks for an approval without saying whose",
		"rule": rule_of(team),
		"public": true,
		"remedy": "the owner of the rule has to name the approvers",
	}
}

denials contains reason if {
	not readable
	reason := {
		"code": "input_truncated",
		"message": "the arguments are too long for policy to read in full",
		"rule": "interlock",
		"public": true,
		"remedy": "send less in one call",
	}
}

denials contains reason if {
	input.resource.type == "approval"
	message := obstacles[input.resource.properties.obstacle]
	reason := {
		"code": concat("_", ["approval", input.resource.properties.obstacle]),
		"message": message,
		"rule": "interlock",
		"public": true,
		"remedy": "",
	}
}

# What keeps somebody from voting on a held call, as the gateway found it.
obstacles := {
	"expired": "the time for it is over",
	"not_asked": "its hold asks for somebody else at this stage",
	"over": "it is decided already",
	"own": "nobody approves a call that is made by them, for them or through them",
	"voted": "you voted on it already",
}

# A reason as the gateway reads it, every field there and of its type. What a team left out or got wrong becomes
# what shows least; the denial itself stands.
explained(team, entry) := {
	"code": text(entry, "code", "denied"),
	"message": text(entry, "message", bare(entry)),
	"rule": text(entry, "rule", rule_of(team)),
	"public": is_public(entry),
	"remedy": text(entry, "remedy", ""),
}

text(entry, field, fallback) := value if {
	is_object(entry)
	value := entry[field]
	is_string(value)
	value != ""
} else := fallback

rule_of(team) := concat(".", ["rules", team])

is_public(entry) if {
	is_object(entry)
	entry.public == true
} else := false

# `deny contains "text"` is a message too, though a private one.
bare(entry) := entry if {
	is_string(entry)
} else := ""

approvable(entry) if {
	is_object(entry)
	is_string(entry.approvers)
	entry.approvers != ""
}

no_rule_allows := {
	"code": "no_rule_allows",
	"message": concat("", ["no rule allows ", named("action", "name"), " on ", named("resource", "id"), "; ", could]),
	"rule": "interlock",
	"public": true,
	"remedy": remedy,
}

named(part, field) := input[part][field] if {
	is_string(input[part][field])
} else := "it"

could := concat(" ", ["an allow in", concat(" or ", [rule_of(team) | some team in opinions]), "could"]) if {
	count(opinions) > 0
} else := "no rule package has an allow"

# What the teams themselves suggest (`remedy contains "..."`), else the way everybody has.
remedy := concat("; ", remedies) if {
	count(remedies) > 0
} else := "ask whoever keeps these rules to allow it, or use what the lists show"

remedies contains entry if {
	some entry in entries(data.rules[_].remedy)
	is_string(entry)
}

# Several teams may each want a person: the gateway is given all of them.
access_request := request if {
	count(holds) == 1
	some request in holds
} else := {
	"all_of": [request | some request in holds],
	"approvers": concat(" and ", {request.approvers | some request in holds}),
	"title": concat("; ", {text(request, "title", "approval needed") | some request in holds}),
}

holds contains entry if {
	some entry in entries(data.rules[_].hold)
}

# ---- what rules would say that are recorded and not enforced ----
#
# `monitor contains {"would": "deny", "code": ..., "message": ...}` in a team's package. No decision reads it: the
# gateway asks for it beside the path of the call.
monitored := [finding |
	some team
	some entry in entries(data.rules[team].monitor)
	finding := {
		"rule": rule_of(team),
		"would": text(entry, "would", ""),
		"code": text(entry, "code", "monitored"),
		"message": text(entry, "message", bare(entry)),
	}
]

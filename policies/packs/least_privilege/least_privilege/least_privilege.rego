# Each role gets the few tools and agents that its work needs, with limits on their arguments.
#
# The roles stand in data.json: role -> id of a tool (or name of an agent) -> limits. `allow_values` names arguments
# that must have one of the listed values; `max` caps numbers by narrowing the call instead of refusing it.
package rules.least_privilege

import future.keywords.not

default allow := false

allow if {
	input.action.name in {"mcp.discover", "mcp.initialize", "mcp.tools.list"}
	input.subject.id != ""
}

allow if {
	count(grants) > 0
	input.subject.id != ""
}

# The limits of every role of the caller that has this tool.
grants contains grant if {
	input.action.name == "mcp.tools.call"
	some role in input.subject.properties.roles
	grant := data.least_privilege.roles[role][input.resource.id]
}

# An agent is granted as a whole, with what its caller's own tasks need: a task's id says nothing about its agent.
grants contains grant if {
	input.action.properties.protocol == "a2a"
	some role in input.subject.properties.roles
	grant := data.least_privilege.roles[role][input.resource.properties.upstream]
}

# One grant must fit as a whole: two roles do not add up to more than each of them.
deny contains {
	"code": "argument_not_granted",
	"message": "none of your roles may use this tool with these arguments",
	"public": true,
	"remedy": "use one of the values that your role was given",
} if {
	args := input.resource.properties.arguments
	count(grants) > 0
	every grant in grants {
		some name, values in grant.allow_values
		not args[name] in values
	}
}

# Whoever has a role of this pack has nothing beside it, whatever another package allows.
deny contains {
	"code": "not_in_your_role",
	"message": "your role is confined to the tools and agents that it was given, and this is none of them",
	"public": true,
	"remedy": "ask whoever keeps least_privilege/data.json to give it to your role",
} if {
	input.action.name in {"a2a.message.send", "a2a.message.stream", "mcp.tools.call"}
	data.least_privilege.confine == true
	some role in input.subject.properties.roles
	data.least_privilege.roles[role]
	count(grants) == 0
}

obligation contains {"type": "transform", "properties": {"path": concat(".", ["$", name]), "max": limit}} if {
	input.action.name == "mcp.tools.call"
	some grant in grants
	some name, limit in grant.max
}

remedy contains "ask whoever keeps least_privilege/data.json to give the tool to your role"

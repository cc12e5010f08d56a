# Each role gets the few tools that its work needs, with limits on their arguments.
#
# The roles stand in data (roles/data.json): role -> tool id -> limits. `allow_values` names arguments that must have
# one of the listed values; `max` caps numbers by narrowing the call instead of refusing it.
package rules.least_privilege

import future.keywords.not

default allow := false

allow if {
	input.action.name in {"mcp.initialize", "mcp.discover", "mcp.tools.list"}
	input.subject.id != ""
}

allow if {
	input.action.name == "mcp.tools.call"
	count(grants) > 0
}

# The limits of every role of the caller that has this tool.
grants contains grant if {
	some role in input.subject.properties.roles
	grant := data.roles[role][input.resource.id]
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

obligation contains {"type": "transform", "properties": {"path": concat(".", ["$", name]), "max": limit}} if {
	some grant in grants
	some name, limit in grant.max
}

remedy contains "ask whoever keeps roles/data.json to give the tool to your role"

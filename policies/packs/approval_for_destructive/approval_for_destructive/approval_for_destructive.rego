# What may destroy something waits for people: who, how many and in which order stands in data.json.
#
# Put it beside a package that allows: this one only holds. ../README.md has what to edit.
package rules.approval_for_destructive

import future.keywords.not

default allow := false

# Only the request is held: once it was carried out, there is nothing left to agree to.
hold contains object.union(request, {"title": title}) if {
	input.phase == "request"
	destructive
}

# Without the data nobody could be asked, and nothing would be held.
deny contains {
	"code": "approvers_not_configured",
	"message": "this pack does not know who could agree to what destroys something",
	"public": true,
	"remedy": "put approval_for_destructive/data.json beside the rules, with `request` and `destroys`",
} if {
	input.action.name in acting
	not configured
}

configured if {
	is_string(data.approval_for_destructive.request.approvers)
	is_object(data.approval_for_destructive.destroys)
}

destructive if {
	input.action.name in acting
	input.resource.properties.catalog.risk in data.approval_for_destructive.destroys.risk
}

destructive if {
	input.action.name in acting
	some label in input.resource.properties.catalog.labels
	label in data.approval_for_destructive.destroys.labels
}

# A server may say of itself that a tool destroys; that it does not is only heard of upstreams in `careful`, where
# every other tool is held.
destructive if {
	input.action.name == "mcp.tools.call"
	input.resource.properties.hints.destructiveHint == true
}

destructive if {
	input.action.name == "mcp.tools.call"
	input.resource.properties.upstream in data.approval_for_destructive.careful
	not input.resource.properties.hints.readOnlyHint == true
}

destructive if {
	input.action.name == "mcp.tools.call"
	some pattern in data.approval_for_destructive.destroys.names
	glob.match(pattern, null, lower(input.resource.properties.name))
}

# SQL is read by its words: a statement that only mentions one in a text is held too, none is missed.
destructive if {
	input.action.name == "mcp.tools.call"
	"sql" in input.resource.properties.catalog.labels
	some statement in data.approval_for_destructive.destroys.statements
	statement in words
}

words := {word | some word in regex.split("[^A-Z]+", upper(concat(" ", [text | some text in sql])))}

sql contains text if some text in texts(input.resource.properties.arguments.sql)

sql contains text if some text in texts(input.resource.properties.arguments.query)

sql contains text if some text in texts(input.resource.properties.arguments.statement)

sql contains text if some text in texts(input.resource.properties.arguments.statements)

texts(value) := {value} if {
	is_string(value)
} else := {text | some text in value; is_string(text)} if {
	is_array(value)
}

acting := {"a2a.message.send", "a2a.message.stream", "mcp.tools.call"}

request := data.approval_for_destructive.requests[input.resource.properties.upstream] if {
	true
} else := data.approval_for_destructive.request

title := concat("", ["may destroy something: ", input.resource.id])

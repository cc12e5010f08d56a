# What was read decides what may still be sent: a session that has read private things and untrusted ones sends nothing
# out without a human.
#
# Untrusted text may carry orders, private data is what they are after, and a way out is what they need ("lethal
# trifecta"). Any two of the three are harmless. Labels of what is read stay on the session; when both kinds are there,
# whatever leads outside is held. Put it beside a package that allows. ../README.md has what to edit.
package rules.information_flow

import future.keywords.not

# ---- what is read marks the session ----

label contains word if {
	input.action.name in reading
	some word in marks
	word in data.information_flow.sources[_]
}

# What comes over a connection out of a sandbox is not ours, whoever asked for it.
label contains word if {
	connects_outside
	some word in data.information_flow.sources.untrusted
}

# The labels of what is acted on: the operator's, those that `things` adds for one tool, resource or agent, and what
# stands for an upstream that has none.
marks contains word if some word in input.resource.properties.catalog.labels

marks contains word if {
	some pattern, words in data.information_flow.things
	glob.match(pattern, null, input.resource.id)
	some word in words
}

marks contains word if {
	input.action.properties.protocol == "a2a"
	some word in data.information_flow.things[input.resource.properties.upstream]
}

marks contains word if {
	not labelled
	some word in data.information_flow.unlabelled
}

labelled if count(input.resource.properties.catalog.labels) > 0

# ---- what the session has read ----

seen contains word if some word in input.context.session.labels

# A connection belongs to a call that is still reading: what that call reads counts already.
seen contains word if some word in input.resource.properties.caller.catalog.labels

seen contains word if {
	some pattern, words in data.information_flow.things
	glob.match(pattern, null, input.resource.properties.caller.id)
	some word in words
}

# Every kind at once. A session with too many labels has lost some, so it counts as having all.
tainted if {
	every words in data.information_flow.sources {
		some word in words
		word in seen
	}
}

tainted if "overflow" in input.context.session.labels

# ---- what leads outside is held ----

# Only the request: once it was carried out, there is nothing left to agree to.
hold contains object.union(data.information_flow.request, {"title": title}) if {
	input.phase == "request"
	leaves
	tainted
}

title := concat("", ["send to ", input.resource.id, " after reading what is labelled ", concat(", ", sort(remembered))])

remembered contains word if {
	some words in data.information_flow.sources
	some word in words
	word in seen
}

remembered contains "overflow" if "overflow" in input.context.session.labels

leaves if {
	input.action.name in sending
	outside
}

leaves if connects_outside

# An agent reports to whom it is told to.
leaves if {
	input.resource.properties.push == true
	not input.resource.properties.push_host in data.information_flow.inside
}

outside if {
	some word in marks
	word in data.information_flow.sinks
}

connects_outside if {
	input.action.name == "egress.connect"
	not input.resource.properties.host in data.information_flow.inside
}

# The client's model would answer a server outside out of all that it has read; nobody can agree to words not yet
# written.
deny contains {
	"code": "answer_would_leave",
	"message": "a server outside asks the model something after it read private and untrusted content",
	"public": true,
	"remedy": "do it in a session of its own",
} if {
	input.action.name == "mcp.sampling.create"
	outside
	tainted
}

# Without the data nothing would be a way out, or nobody could be asked.
deny contains {
	"code": "flow_not_configured",
	"message": "this pack does not know what is private, what is untrusted and what leads outside",
	"public": true,
	"remedy": "put information_flow/data.json beside the rules, with `sources`, `sinks` and `request`",
} if {
	input.action.name in (sending | {"egress.connect"})
	not configured
}

configured if {
	is_string(data.information_flow.request.approvers)
	count(data.information_flow.sources) > 0
	count(data.information_flow.sinks) > 0
}

reading := {
	"a2a.message.send",
	"a2a.message.stream",
	"a2a.tasks.get",
	"a2a.tasks.list",
	"a2a.tasks.subscribe",
	"mcp.completion.complete",
	"mcp.elicitation.create",
	"mcp.prompts.get",
	"mcp.resources.read",
	"mcp.sampling.create",
	"mcp.tasks.get",
	"mcp.tools.call",
}

# A resource's address and the arguments of a prompt reach the server as well.
sending := {
	"a2a.message.send",
	"a2a.message.stream",
	"mcp.completion.complete",
	"mcp.prompts.get",
	"mcp.resources.read",
	"mcp.tasks.update",
	"mcp.tools.call",
}

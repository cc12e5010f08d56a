# Decides by a policy that was written for OPA's "Agent Tool Calling" page: its input is
# `{"tool_calls": [{"tool": ..., "params": {...}}]}`, its answer the set `deny` of reasons, and an empty set permits.
#
# That policy stays as it is. Put it beside this file in place of example.rego, and name its package in the import
# below. compat/data.json says whether its empty set permits by itself (else some other pack has to allow), and whether
# callers are told its reasons.
package rules.agent_tool_calling

import future.keywords.not

import data.agent_tool_calling as theirs

default allow := false

# As the page has it: no reason to deny, so the tool runs. Nobody is still nobody.
allow if {
	asked
	data.compat.agent_tool_calling.permits == true
	input.subject.id != ""
	is_collection(verdict)
	count(verdict) == 0
}

# What there is may be asked for; each list then shows what the policy does not deny by name.
allow if {
	input.action.name in {"mcp.discover", "mcp.initialize", "mcp.tools.list"}
	data.compat.agent_tool_calling.permits == true
	input.subject.id != ""
}

deny contains {"code": "tool_call_denied", "message": message(reason), "public": shown} if {
	asked
	is_collection(verdict)
	some reason in verdict
}

# No such set: the package is not there, or its `deny` is something else. The page's harness would run the tool.
deny contains {
	"code": "tool_policy_missing",
	"message": "the policy for tool calls gives no set of reasons",
	"public": true,
	"remedy": "the owner of the rules has to name its package in agent_tool_calling.rego",
} if {
	asked
	not is_collection(verdict)
}

asked if input.action.name == "mcp.tools.call"

# A list asks without arguments, for nobody knows them yet.
calls := [{
	"tool": input.resource.properties.name,
	"params": object.get(input.resource.properties, "arguments", {}),
}]

verdict := found if {
	asked_about := calls
	found := theirs.deny with input as {"tool_calls": asked_about}
}

is_collection(value) if is_set(value)

is_collection(value) if is_array(value)

message(reason) := reason if {
	is_string(reason)
} else := "denied by the policy for tool calls"

default shown := false

shown if data.compat.agent_tool_calling.public == true

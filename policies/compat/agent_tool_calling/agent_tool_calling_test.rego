package tests.agent_tool_calling

import future.keywords.not

import data.interlock

question(tool, arguments) := {
	"phase": "request",
	"subject": {"type": "user", "id": "user:ana", "properties": {"roles": []}},
	"action": {"name": "mcp.tools.call", "properties": {"method": "tools/call"}},
	"resource": {"type": "tool", "id": concat("/", ["web", tool]), "properties": {
		"upstream": "web",
		"name": tool,
		"arguments": arguments,
		"truncated": false,
	}},
}

decided(tool, arguments) := answer if {
	answer := interlock.decision with input as question(tool, arguments)
}

reasons(tool, arguments) := decided(tool, arguments).context.reasons

search := {"query": "open policy agent latest release", "num_results": 5}

test_empty_set_permits if decided("WebSearch", search).decision == true

test_tool_is_denied_by_its_name if {
	some reason in reasons("Bash", {"command": "ls"})
	reason.code == "tool_call_denied"
	reason.message == "the Bash tool is not allowed"
	reason.public
}

test_tool_is_denied_by_its_params if {
	decided("WebSearch", {"num_results": 50}).decision == false
	some reason in reasons("WebSearch", {"num_results": 50})
	reason.message == "WebSearch: 50 results are too many"
}

test_reasons_can_be_kept_back if {
	told := reasons("Bash", {}) with data.compat.agent_tool_calling.public as false
	every reason in told {
		not reason.public
	}
	count(told) == 1
}

test_without_the_switch_it_only_denies if {
	answer := decided("WebSearch", search) with data.compat.agent_tool_calling.permits as false
	answer.decision == false
	some reason in answer.context.reasons
	reason.code == "no_rule_allows"
}

test_policy_that_is_not_there_denies if {
	answer := decided("WebSearch", search) with data.agent_tool_calling as {}
	answer.decision == false
	some reason in answer.context.reasons
	reason.code == "tool_policy_missing"
}

test_deny_that_is_no_set_denies if {
	answer := decided("WebSearch", search) with data.agent_tool_calling as {"deny": false}
	answer.decision == false
}

test_reason_that_is_no_text_denies if {
	answer := decided("WebSearch", search) with data.agent_tool_calling as {"deny": [{"msg": "no"}]}
	answer.decision == false
	some reason in answer.context.reasons
	reason.message == "denied by the policy for tool calls"
}

test_nobody_is_not_permitted if {
	asked := object.union(question("WebSearch", search), {"subject": {"id": ""}})
	answer := interlock.decision with input as asked
	answer.decision == false
}

test_other_actions_are_not_tool_calls if {
	asked := object.union(question("WebSearch", search), {"action": {"name": "mcp.resources.read"}})
	answer := interlock.decision with input as asked
	answer.decision == false
}

test_lists_may_be_asked_for if {
	asked := object.union(question("x", {}), {"action": {"name": "mcp.tools.list"}})
	answer := interlock.decision with input as asked
	answer.decision == true
}

test_list_hides_what_is_denied_by_name_and_shows_what_depends_on_params if {
	candidates := [candidate("Bash"), candidate("WebSearch")]
	asked := object.union(question("*", {}), {"phase": "list", "resource": {"properties": {"candidates": candidates}}})
	shown := interlock.visible with input as asked
	shown == {1}
}

candidate(tool) := {
	"type": "tool",
	"id": concat("/", ["web", tool]),
	"properties": {"upstream": "web", "name": tool, "catalog": {}, "hints": {}},
}

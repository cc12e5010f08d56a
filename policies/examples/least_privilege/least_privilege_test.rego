package tests.least_privilege

import future.keywords.not

import data.interlock

use(roles, tool, arguments) := {
	"subject": {"id": "ana", "properties": {"roles": roles}},
	"action": {"name": "mcp.tools.call"},
	"resource": {"id": tool, "properties": {"arguments": arguments}},
}

answer(question) := decision if {
	decision := interlock.decision with input as question
}

test_a_role_may_use_its_tool_with_its_values if {
	answer(use(["analyst"], "warehouse/query", {"database": "sales"})).decision == true
}

test_other_values_are_denied if {
	refused := answer(use(["analyst"], "warehouse/query", {"database": "ledger"}))
	refused.decision == false
	refused.context.reasons[0].code == "argument_not_granted"
}

test_a_missing_argument_is_denied if {
	answer(use(["analyst"], "warehouse/query", {})).decision == false
}

test_either_role_is_enough_but_they_do_not_add_up if {
	answer(use(["analyst", "auditor"], "warehouse/query", {"database": "ledger"})).decision == true
	answer(use(["analyst", "auditor"], "warehouse/query", {"database": "other"})).decision == false
}

test_other_tools_are_denied if {
	answer(use(["analyst"], "warehouse/export", {})).decision == false
	answer(use(["auditor"], "warehouse/export", {})).decision == true
	answer(use([], "warehouse/query", {"database": "sales"})).decision == false
}

test_numbers_are_capped if {
	answer(use(["analyst"], "warehouse/query", {"database": "sales"})).context.obligations == [{
		"type": "transform",
		"properties": {"path": "$.limit", "max": 1000},
	}]
}

test_a_list_shows_what_the_role_has if {
	tools := [{"type": "tool", "id": id, "properties": {}} | some id in ["warehouse/query", "warehouse/export", "x/y"]]
	interlock.visible == {0} with input as {
		"phase": "list",
		"subject": {"id": "ana", "properties": {"roles": ["analyst"]}},
		"action": {"name": "mcp.tools.list", "properties": {}},
		"resource": {"id": "*", "properties": {"candidates": tools}},
	}
}

package tests.least_privilege

import future.keywords.not

roles := {
	"analyst": {
		"warehouse/query": {"allow_values": {"database": ["sales", "stock"]}, "max": {"limit": 1000}},
		"research": {},
	},
	"auditor": {
		"warehouse/query": {"allow_values": {"database": ["ledger"]}, "max": {"limit": 100}},
		"warehouse/export": {},
	},
}

use(has, tool, arguments) := {
	"subject": {"id": "ana", "properties": {"roles": has}},
	"action": {"name": "mcp.tools.call"},
	"resource": {"id": tool, "properties": {"arguments": arguments}},
}

permitted(question) if data.rules.least_privilege.allow with input as question
	with data.least_privilege as {"roles": roles}

codes(question) := {entry.code |
	some entry in data.rules.least_privilege.deny with input as question with data.least_privilege as {"roles": roles}
}

confined(question) := {entry.code |
	some entry in data.rules.least_privilege.deny with input as question
		with data.least_privilege as {"roles": roles, "confine": true}
}

good := use(["analyst"], "warehouse/query", {"database": "sales"})

test_a_role_may_use_its_tool_with_its_values if {
	permitted(good)
	codes(good) == set()
}

test_other_values_are_denied if {
	codes(use(["analyst"], "warehouse/query", {"database": "ledger"})) == {"argument_not_granted"}
}

test_a_missing_argument_is_denied if {
	codes(use(["analyst"], "warehouse/query", {})) == {"argument_not_granted"}
}

test_either_role_is_enough_but_they_do_not_add_up if {
	codes(use(["analyst", "auditor"], "warehouse/query", {"database": "ledger"})) == set()
	codes(use(["analyst", "auditor"], "warehouse/query", {"database": "other"})) == {"argument_not_granted"}
}

test_other_tools_are_not_allowed if {
	not permitted(use(["analyst"], "warehouse/export", {}))
	permitted(use(["auditor"], "warehouse/export", {}))
	not permitted(use([], "warehouse/query", {"database": "sales"}))
	not permitted(object.union(good, {"subject": {"id": ""}}))
}

test_numbers_are_capped if {
	data.rules.least_privilege.obligation == {{
		"type": "transform",
		"properties": {"path": "$.limit", "max": 1000},
	}} with input as good with data.least_privilege as {"roles": roles}
}

test_everybody_known_may_ask_what_there_is if {
	permitted(object.union(use([], "*", {}), {"action": {"name": "mcp.tools.list"}}))
	not permitted(object.union(use([], "*", {}), {"action": {"name": "mcp.tools.list"}, "subject": {"id": ""}}))
}

test_in_a_list_there_are_no_arguments_and_the_tool_is_shown if {
	listed := {
		"subject": {"id": "ana", "properties": {"roles": ["analyst"]}},
		"action": {"name": "mcp.tools.call"},
		"resource": {"id": "warehouse/query", "properties": {}},
	}
	permitted(listed)
	codes(listed) == set()
}

agent(action, upstream) := {
	"subject": {"id": "ana", "properties": {"roles": ["analyst"]}},
	"action": {"name": action, "properties": {"protocol": "a2a"}},
	"resource": {"id": "t1", "properties": {"upstream": upstream, "arguments": {}}},
}

test_an_agent_is_granted_as_a_whole if {
	permitted(agent("a2a.message.send", "research"))
	permitted(agent("a2a.tasks.get", "research"))
	not permitted(agent("a2a.tasks.get", "planner"))
}

test_a_confined_role_has_nothing_beside_it if {
	confined(use(["analyst"], "git/git_status", {})) == {"not_in_your_role"}
	confined(agent("a2a.message.send", "planner")) == {"not_in_your_role"}
	confined(good) == set()
	confined(use(["developer"], "git/git_status", {})) == set()
	codes(use(["analyst"], "git/git_status", {})) == set()
}

package tests.agents

import future.keywords.not

import data.interlock

question(subject, action, properties) := {
	"phase": "request",
	"subject": subject,
	"action": {"name": action, "properties": {"protocol": "a2a", "method": "x"}},
	"resource": {"type": "agent", "id": "planner", "properties": object.union(
		{"upstream": "planner", "name": "planner", "arguments": {}, "truncated": false, "catalog": {"risk": "medium"}},
		properties,
	)},
}

ana := {"type": "user", "id": "user:ana", "properties": {"roles": ["planning"], "delegation": []}}

operator := {"type": "user", "id": "user:op", "properties": {"roles": ["operator"], "delegation": []}}

agent(delegation) := {"type": "agent", "id": "agent:planner", "properties": {
	"roles": ["planning"],
	"delegation": delegation,
}}

text := {"media_types": ["text/plain"], "part_kinds": ["text"], "url_hosts": [], "push": false, "push_host": ""}

message(changes) := object.union(text, changes)

owned(owner) := {"catalog": {"task": {"owner": owner, "state": "TASK_STATE_WORKING"}}}

permitted(asked) if interlock.decision.decision with input as asked

codes(asked) := {reason.code |
	decision := interlock.decision with input as asked
	decision.decision == false
	some reason in decision.context.reasons
}

test_a_role_has_kinds_of_operations_at_each_agent if {
	permitted(question(ana, "a2a.message.stream", text))
	permitted(question(ana, "a2a.push.list", {}))
	permitted(question(ana, "a2a.message.send", {"upstream": "research"}))
	codes(question(ana, "a2a.push.list", {"upstream": "research"})) == {"no_rule_allows"}
	codes(question(ana, "a2a.message.send", {"upstream": "payroll"})) == {"no_rule_allows"}
	codes(question(ana, "a2a.tasks.cancel", {})) == {"no_rule_allows"}
	permitted(question(operator, "a2a.tasks.cancel", {"upstream": "payroll"}))
}

test_other_content_is_denied if {
	permitted(question(ana, "a2a.message.send", message({"media_types": ["application/json", "text/plain"]})))
	codes(question(ana, "a2a.message.send", message({"media_types": ["application/zip"]}))) == {"content_not_agreed"}
	codes(question(ana, "a2a.message.send", message({"url_hosts": ["evil.example"]}))) == {"host_not_listed"}
	codes(question(ana, "a2a.message.send", message({"url_hosts": [""]}))) == {"host_not_listed"}
	permitted(question(ana, "a2a.message.send", message({"url_hosts": ["files.example.org"]})))
}

test_notifications_go_where_they_may_also_from_a_message if {
	every action in ["a2a.push.create", "a2a.message.send"] {
		permitted(question(ana, action, message({"push": true, "push_host": "hooks.example.org"})))
		codes(question(ana, action, message({"push": true, "push_host": "h.example"}))) == {"receiver_not_listed"}
		codes(question(ana, action, message({"push": true, "push_host": ""}))) == {"receiver_not_listed"}
	}
}

test_a_task_that_an_agent_began_is_ended_by_an_operator if {
	permitted(question(operator, "a2a.tasks.cancel", owned("agent:planner")))
	grants := {"roles": {"planning": {"planner": ["cancel"]}}}
	permitted(question(ana, "a2a.tasks.cancel", owned("user:ana"))) with data.agents as grants
	codes(question(ana, "a2a.tasks.cancel", owned("agent:planner"))) == {"task_of_an_agent"} with data.agents as grants
}

test_an_agent_asks_for_a_person_through_few_others if {
	permitted(question(agent(["user:ana", "agent:planner"]), "a2a.message.send", text))
	codes(question(agent([]), "a2a.message.send", text)) == {"for_nobody"}
	codes(question(agent(["key:cron", "agent:planner"]), "a2a.message.send", text)) == {"for_nobody"}
	deep := ["user:ana", "agent:one", "agent:two", "agent:planner"]
	codes(question(agent(deep), "a2a.message.send", text)) == {"too_many_hands"}
}

test_what_is_risky_is_on_record_first if {
	decision := interlock.decision with input as question(ana, "a2a.message.send", {"catalog": {"risk": "high"}})
	{entry.type | some entry in decision.context.obligations} == {"audit", "rate"}
}

test_the_catalogue_shows_what_its_reader_may_ask if {
	agents := [{"type": "agent", "id": id, "properties": {"upstream": id, "name": id}} | some id in ["planner", "payroll"]]
	interlock.visible == {0} with input as {
		"phase": "list",
		"subject": ana,
		"action": {"name": "a2a.card.read", "properties": {"protocol": "a2a", "method": "catalog/read"}},
		"resource": {"type": "agent", "id": "*", "properties": {"candidates": agents}},
	}
}

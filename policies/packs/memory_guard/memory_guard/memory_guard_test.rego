package tests.memory_guard

import future.keywords.not

settings := {
	"review": [
		{"source": ["tool"], "scope": ["team", "org"]},
		{"source": ["tool", "model"], "kind": ["procedural"]},
	],
	"never": [{"source": ["tool"], "namespace": ["policies"]}],
	"refused": ["hidden_text"],
	"machines": ["tool", "model"],
	"protected": 60,
	"residency": {"eu": ["eu-staff"]},
}

usual := {
	"namespace": "default", "scope": "agent", "kind": "semantic", "residency": "", "source": "agent", "person": false,
	"sources": 1, "findings": [], "of": {},
}

ask(action, method, changed) := {
	"subject": {"id": "user:ana", "properties": {"roles": ["developer"]}},
	"action": {"name": action, "properties": {"method": method}},
	"resource": {
		"type": "memory", "id": "default/x",
		"properties": {"upstream": "memory", "name": "default", "catalog": {"memory": object.union(usual, changed)}},
	},
}

remember(changed) := ask("memory.write", "memory/remember", changed)

labels(question) := found if {
	found := data.rules.memory_guard.label with input as question with data.memory_guard as settings
}

codes(question) := {entry.code |
	some entry in data.rules.memory_guard.deny with input as question with data.memory_guard as settings
}

test_the_word_of_a_tool_waits_where_it_would_hold_for_many if {
	every changed in [
		{"source": "tool", "scope": "org"},
		{"source": "tool", "scope": "team"},
		{"source": "tool", "kind": "procedural"},
		{"source": "model", "kind": "procedural"},
	] {
		labels(remember(changed)) == {"quarantine"}
		labels(ask("memory.write", "memory/revise", changed)) == {"quarantine"}
	}
}

test_it_does_not_wait_otherwise if {
	every changed in [
		{},
		{"source": "tool"},
		{"source": "agent", "scope": "org"},
		{"source": "tool", "scope": "org", "sources": 2},
		{"source": "tool", "scope": "org", "person": true},
		{"source": "tool", "kind": "scratch", "scope": "org"},
	] {
		labels(remember(changed)) == set()
		codes(remember(changed)) == set()
	}
	labels(ask("memory.write", "memory/approve", {"source": "tool", "scope": "org"})) == set()
	labels(ask("memory.read", "memory/recall", {"source": "tool", "scope": "org"})) == set()
}

test_some_is_never_written_on_such_a_word if {
	codes(remember({"source": "tool", "namespace": "policies"})) == {"not_on_this_word"}
	codes(remember({"source": "tool", "namespace": "policies", "sources": 2})) == set()
	codes(remember({"source": "agent", "namespace": "policies"})) == set()
}

test_what_is_disguised_is_refused if {
	codes(remember({"findings": ["hidden_text", "directive"]})) == {"disguised"}
	codes(remember({"findings": ["directive"]})) == set()
}

test_what_is_worth_more_is_protected if {
	trusted := {"source": "tool", "of": {"source": "user", "trust": 90, "subject": "user:ana"}}
	codes(ask("memory.delete", "memory/forget", trusted)) == {"record_protected"}
	codes(ask("memory.write", "memory/revise", trusted)) == {"record_protected"}
	codes(ask("memory.delete", "memory/forget", object.union(trusted, {"source": "agent"}))) == set()
	codes(ask("memory.delete", "memory/forget", object.union(trusted, {"of": {"trust": 30}}))) == set()
	codes(ask("memory.read", "memory/get", trusted)) == set()
}

test_residency_is_for_those_who_may_use_it if {
	codes(ask("memory.read", "memory/recall", {"residency": "eu"})) == {"residency"}
	codes(remember({"residency": "eu"})) == {"residency"}
	local := {"subject": {"id": "user:eva", "properties": {"roles": ["eu-staff"]}}}
	codes(object.union(remember({"residency": "eu"}), local)) == set()
	codes(object.union(remember({"residency": "us"}), local)) == {"residency"}
}

test_a_list_shows_what_may_be_read if {
	classes := [
		{"namespace": "a", "scope": "org", "kind": "semantic", "residency": ""},
		{"namespace": "b", "scope": "org", "kind": "semantic", "residency": "eu"},
	]
	listing := {
		"subject": {"id": "user:ana", "properties": {"roles": ["developer"]}},
		"action": {"name": "memory.read", "properties": {"method": "memory/recall"}},
		"resource": {"type": "memory", "id": "*/*", "properties": {"candidates": [candidate |
			some class in classes
			candidate := {"type": "memory", "id": "x/*", "properties": {"upstream": "memory", "name": "x", "catalog": {"memory": class}}}
		]}},
	}
	data.interlock.visible == {0} with input as listing
		with data.memory_guard as settings
		with data.rules.open as {"allow": true}
}

test_without_data_nothing_is_written if {
	every action in ["memory.write", "memory.delete"] {
		{entry.code | some entry in data.rules.memory_guard.deny} == {"memory_not_configured"} with input as ask(action, "memory/forget", {})
			with data.memory_guard as {}
	}
	count(data.rules.memory_guard.deny) == 0 with input as ask("memory.read", "memory/recall", {})
		with data.memory_guard as {}
}

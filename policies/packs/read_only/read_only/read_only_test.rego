package tests.read_only

import future.keywords.not

tool(labels, hints) := {
	"subject": {"id": "ana"},
	"action": {"name": "mcp.tools.call"},
	"resource": {"id": "u/t", "properties": {"catalog": {"labels": labels}, "hints": hints}},
}

permitted(question) if data.rules.read_only.allow with input as question

codes(question) := {entry.code | some entry in data.rules.read_only.deny with input as question}

reading := tool(["readonly"], {"readOnlyHint": true})

test_a_labelled_reading_tool_may_be_used if {
	permitted(reading)
	codes(reading) == set()
}

test_the_label_alone_is_not_enough if {
	not permitted(tool(["readonly"], {}))
	not permitted(tool(["readonly"], {"readOnlyHint": false}))
}

test_the_claim_of_a_server_alone_is_not_enough if not permitted(tool([], {"readOnlyHint": true}))

test_nobody_may_use_nothing if {
	nobody := {"subject": {"id": ""}}
	not permitted(object.union(reading, nobody))
	not permitted(object.union(reading, {"subject": {"id": ""}, "action": {"name": "mcp.tools.list"}}))
	not permitted(object.union(reading, {"subject": {"id": ""}, "action": {"name": "mcp.resources.read"}}))
}

test_lists_and_labelled_texts_may_be_read if {
	permitted(object.union(reading, {"action": {"name": "mcp.tools.list"}}))
	every action in ["mcp.resources.read", "mcp.prompts.get"] {
		permitted(object.union(reading, {"action": {"name": action}}))
		not permitted(object.union(tool([], {}), {"action": {"name": action}}))
	}
}

test_a_labelled_upstream_is_never_changed_whoever_allows_it if {
	codes(tool(["readonly"], {})) == {"changes_something"}
	codes(tool(["readonly"], {"readOnlyHint": "yes"})) == {"changes_something"}
	codes(tool([], {})) == set()
}

test_everywhere_leaves_only_reading if {
	everywhere := {"everywhere": true}
	codes(tool([], {"readOnlyHint": true})) == {"read_only_everywhere"} with data.read_only as everywhere
	codes(reading) == set() with data.read_only as everywhere
	every action in ["a2a.message.send", "memory.write", "sandbox.exec"] {
		codes(object.union(reading, {"action": {"name": action}})) == {"read_only_everywhere"} with data.read_only as everywhere
	}
	codes(object.union(reading, {"action": {"name": "mcp.resources.read"}})) == set() with data.read_only as everywhere
	codes(object.union(reading, {"action": {"name": "approvals.approve"}})) == set() with data.read_only as everywhere
}

package tests.read_only

import future.keywords.not

import data.interlock

tool(labels, hints) := {
	"subject": {"id": "ana"},
	"action": {"name": "mcp.tools.call"},
	"resource": {"id": "u/t", "properties": {"catalog": {"labels": labels}, "hints": hints}},
}

permitted(question) if interlock.decision.decision with input as question

test_a_labelled_reading_tool_may_be_used if permitted(tool(["readonly"], {"readOnlyHint": true}))

test_the_label_alone_is_not_enough if {
	not permitted(tool(["readonly"], {}))
	not permitted(tool(["readonly"], {"readOnlyHint": false}))
}

test_the_claim_of_a_server_alone_is_not_enough if not permitted(tool([], {"readOnlyHint": true}))

test_nobody_may_use_nothing if {
	nobody := object.union(tool(["readonly"], {"readOnlyHint": true}), {"subject": {"id": ""}})
	not permitted(nobody)
}

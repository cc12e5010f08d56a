package tests.approval_for_destructive

import future.keywords.not

settings := {
	"destroys": {"risk": ["high"], "labels": ["destructive"], "names": ["delete*"], "statements": ["DROP", "UPDATE"]},
	"careful": ["vault"],
	"request": {"approvers": "role:approver", "quorum": 1},
	"requests": {"production": {"approvers": "both", "stages": [{"approvers": "role:approver"}, {"approvers": "group:security"}]}},
}

use(upstream, name, properties) := {
	"phase": "request",
	"subject": {"id": "ana"},
	"action": {"name": "mcp.tools.call"},
	"resource": {"id": concat("/", [upstream, name]), "properties": object.union(
		{"upstream": upstream, "name": name, "arguments": {}, "catalog": {"labels": [], "risk": "low"}, "hints": {}},
		properties,
	)},
}

holds(question) := found if {
	found := data.rules.approval_for_destructive.hold with input as question
		with data.approval_for_destructive as settings
}

is_held(question) if count(holds(question)) == 1

is_free(question) if count(holds(question)) == 0

test_risk_and_labels_of_ours_are_held if {
	is_held(use("files", "write", {"catalog": {"risk": "high"}}))
	is_held(use("files", "write", {"catalog": {"labels": ["destructive"]}}))
	is_free(use("files", "write", {}))
}

test_an_agent_that_destroys_is_held_too if {
	asking := object.union(use("wiper", "wiper", {"catalog": {"risk": "high"}}), {"action": {"name": "a2a.message.send"}})
	is_held(asking)
	is_free(object.union(asking, {"action": {"name": "a2a.tasks.get"}}))
}

test_a_server_may_say_that_it_destroys_but_not_that_it_does_not if {
	is_held(use("files", "tidy", {"hints": {"destructiveHint": true}}))
	is_free(use("files", "tidy", {"hints": {"destructiveHint": false}}))
	is_held(use("files", "delete_all", {"hints": {"destructiveHint": false}}))
}

test_names_are_compared_without_case if {
	is_held(use("files", "Delete_Everything", {}))
	is_free(use("files", "undelete", {}))
}

test_where_care_is_taken_everything_but_reading_is_held if {
	is_held(use("vault", "rotate", {}))
	is_held(use("vault", "rotate", {"hints": {"readOnlyHint": false}}))
	is_free(use("vault", "read", {"hints": {"readOnlyHint": true}}))
}

sql_of(arguments) := use("warehouse", "run", {"catalog": {"labels": ["sql"]}, "arguments": arguments})

test_statements_that_change_are_held if {
	every text in ["DROP TABLE a", "select 1; drop table a", "/**/DROP/**/TABLE a", "with x as (select 1) update a set b=1"] {
		is_held(sql_of({"sql": text}))
		is_held(sql_of({"query": text}))
		is_held(sql_of({"statement": text}))
		is_held(sql_of({"statements": ["select 1", text]}))
	}
	is_free(sql_of({"sql": "select dropped, updated_at from a"}))
	is_free(sql_of({"sql": 7}))
	is_free(use("web", "search", {"arguments": {"query": "how to drop a habit"}}))
}

test_the_request_says_who_and_what if {
	holds(use("files", "delete_all", {})) == {{
		"approvers": "role:approver",
		"quorum": 1,
		"title": "may destroy something: files/delete_all",
	}}
}

test_an_upstream_may_have_a_request_of_its_own if {
	some request in holds(use("production", "delete_all", {}))
	[stage.approvers | some stage in request.stages] == ["role:approver", "group:security"]
}

test_results_are_not_held if is_free(object.union(use("files", "delete_all", {}), {"phase": "response"}))

test_without_data_nothing_passes_unheld if {
	{entry.code | some entry in data.rules.approval_for_destructive.deny} == set() with input as use("files", "read", {})
		with data.approval_for_destructive as settings
	every broken in [{}, {"request": {"approvers": 7}, "destroys": {}}, {"request": {"approvers": "role:approver"}}] {
		{entry.code | some entry in data.rules.approval_for_destructive.deny} == {"approvers_not_configured"} with input as use("files", "read", {})
			with data.approval_for_destructive as broken
	}
}

test_it_allows_nothing_itself if data.rules.approval_for_destructive.allow == false with input as use("files", "read", {})

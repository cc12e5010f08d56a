package tests.budget_and_rate

import future.keywords.not

settings := {
	"each": {"limit": 60, "window_s": 60},
	"roles": {
		"batch": {"limit": 600, "window_s": 60},
		"night": {"limit": 900, "window_s": 60},
		"guest": {"limit": 5, "window_s": 3600},
	},
	"caller": {"limit": 1000, "window_s": 86400},
	"upstreams": {"warehouse": {"limit": 20, "window_s": 1}},
	"risk": {"high": {"limit": 2, "window_s": 3600}},
	"arguments": {"warehouse/query": {"limit": 100}},
	"result_bytes": 5000,
	"sampling_tokens": 100,
}

use(roles, upstream, name, risk) := {
	"subject": {"id": "ana", "properties": {"roles": roles}},
	"action": {"name": "mcp.tools.call"},
	"resource": {"id": concat("/", [upstream, name]), "properties": {"upstream": upstream, "catalog": {"risk": risk}}},
}

asked_for(question, kind) := {entry.properties |
	some entry in data.rules.budget_and_rate.obligation with input as question with data.budget_and_rate as settings
	entry.type == kind
}

codes(question) := {entry.code |
	some entry in data.rules.budget_and_rate.deny with input as question with data.budget_and_rate as settings
}

of_caller := {"limit": 1000, "window_s": 86400, "key": "caller:ana"}

test_everybody_has_a_rate_and_a_budget_for_the_day if {
	asked_for(use([], "x", "y", "low"), "rate") == {{"limit": 60, "window_s": 60}, of_caller}
	codes(use([], "x", "y", "low")) == set()
}

test_a_role_takes_the_place_of_everybodys if {
	asked_for(use(["batch"], "x", "y", "low"), "rate") == {{"limit": 600, "window_s": 60}, of_caller}
	asked_for(use(["batch", "night", "other"], "x", "y", "low"), "rate") == {{"limit": 900, "window_s": 60}, of_caller}
	asked_for(use(["batch", "guest"], "x", "y", "low"), "rate") == {
		{"limit": 600, "window_s": 60},
		{"limit": 5, "window_s": 3600},
		of_caller,
	}
}

test_an_upstream_and_a_risk_have_rates_of_their_own if {
	asked_for(use([], "warehouse", "export", "high"), "rate") == {
		{"limit": 60, "window_s": 60},
		{"limit": 20, "window_s": 1, "key": "upstream:warehouse"},
		{"limit": 2, "window_s": 3600, "key": "risk:high:ana"},
		of_caller,
	}
}

test_arguments_and_results_are_capped if {
	asked_for(use([], "warehouse", "query", "low"), "transform") == {{"path": "$.limit", "max": 100}}
	asked_for(use([], "warehouse", "export", "low"), "transform") == set()
	asked_for(use([], "x", "y", "low"), "cap") == {{"max_bytes": 5000}}
}

test_lists_and_tasks_are_not_counted if {
	listing := object.union(use([], "x", "y", "low"), {"action": {"name": "mcp.tools.list"}})
	count(data.rules.budget_and_rate.obligation) == 0 with input as listing with data.budget_and_rate as settings
}

sampling(most) := {
	"subject": {"id": "ana", "properties": {"roles": []}},
	"action": {"name": "mcp.sampling.create"},
	"resource": {"id": "x", "properties": {"upstream": "x", "max_tokens": most}},
}

test_a_server_has_the_model_write_little if {
	codes(sampling(100)) == set()
	codes(sampling(101)) == {"too_many_tokens"}
	codes(sampling(-1)) == {"too_many_tokens"}
}

test_without_data_nothing_passes_unlimited if {
	every broken in [{}, {"each": {"limit": 1, "window_s": 1}}] {
		{entry.code | some entry in data.rules.budget_and_rate.deny} == {"limits_not_configured"} with input as use([], "x", "y", "low")
			with data.budget_and_rate as broken
	}
}

package tests.budget_and_rate

import future.keywords.not

settings := {
	"budgets": {
		"*": [{"scope": "subject", "usd": 5, "window_s": 86400}],
		"sandbox.exec": [{"scope": "chain", "seconds": 60}],
	},
	"costs": {"warehouse/query": {"usd": 0.01}},
	"spare_from": 0.9,
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

test_what_is_spent_is_counted if {
	of_subject := {"scope": "subject", "usd": 5, "window_s": 86400}
	asked_for(use([], "x", "y", "low"), "budget") == {of_subject}
	box := object.union(use([], "x", "y", "low"), {"action": {"name": "sandbox.exec"}})
	asked_for(box, "budget") == {of_subject, {"scope": "chain", "seconds": 60}}
	asked_for(object.union(use([], "x", "y", "low"), {"action": {"name": "model.call"}}), "budget") == {of_subject}
	asked_for(object.union(use([], "x", "y", "low"), {"action": {"name": "mcp.tools.list"}}), "budget") == set()
}

test_a_tool_costs_what_the_data_says if {
	asked_for(use([], "warehouse", "query", "low"), "cost") == {{"usd": 0.01}}
	asked_for(use([], "warehouse", "export", "low"), "cost") == set()
}

dear(phase, labels, used) := {
	"phase": phase,
	"subject": {"id": "ana", "properties": {"roles": []}},
	"action": {"name": "model.call"},
	"resource": {"id": "p/m", "properties": {"upstream": "p", "catalog": {"risk": "low", "labels": labels}}},
	"context": {"budget": {"used": used}},
}

test_what_is_dear_is_spared_when_little_is_left if {
	codes(dear("request", ["expensive"], 0.89)) == set()
	codes(dear("request", ["expensive"], 0.9)) == {"budget_nearly_used"}
	codes(dear("request", [], 0.95)) == set()
	codes(dear("response", ["expensive"], 0.95)) == set()
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

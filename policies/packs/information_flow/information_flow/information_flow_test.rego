package tests.information_flow

import future.keywords.not

settings := {
	"sources": {"private": ["private", "pii"], "untrusted": ["untrusted", "web"]},
	"sinks": ["external"],
	"request": {"approvers": "role:security", "expires_s": 60},
	"things": {"fetch/*": ["web"], "mail/send": ["external"], "research": ["external", "web"]},
	"unlabelled": [],
	"inside": ["db.example.com"],
}

use(action, id, labels, remembered) := {
	"phase": "request",
	"subject": {"id": "ana"},
	"action": {"name": action, "properties": {"protocol": split(action, ".")[0]}},
	"resource": {"id": id, "properties": {"upstream": split(id, "/")[0], "catalog": {"labels": labels}}},
	"context": {"session": {"labels": remembered}},
}

call(id, labels, remembered) := use("mcp.tools.call", id, labels, remembered)

holds(question) := found if {
	found := data.rules.information_flow.hold with input as question with data.information_flow as settings
}

is_held(question) if count(holds(question)) == 1

is_free(question) if count(holds(question)) == 0

labels_of(question) := found if {
	found := data.rules.information_flow.label with input as question with data.information_flow as settings
}

codes(question) := {entry.code |
	some entry in data.rules.information_flow.deny with input as question with data.information_flow as settings
}

both := ["pii", "untrusted"]

test_what_is_read_marks_the_session if {
	labels_of(call("files/read", ["pii", "other"], [])) == {"pii"}
	labels_of(use("mcp.resources.read", "file:///x", ["web", "private"], [])) == {"web", "private"}
	labels_of(use("a2a.tasks.get", "t1", ["untrusted"], [])) == {"untrusted"}
	labels_of(call("time/now", [], [])) == set()
	labels_of(use("mcp.tools.list", "*", ["web"], [])) == set()
}

test_one_tool_may_have_labels_of_its_own if {
	labels_of(call("fetch/get", [], [])) == {"web"}
	labels_of(use("a2a.tasks.get", "t1", [], [])) == set()
	labels_of(object.union(use("a2a.tasks.get", "t1", [], []), {"resource": {"properties": {"upstream": "research"}}})) == {"web"}
	is_held(call("mail/send", [], both))
	is_free(call("mail/draft", [], both))
}

test_an_upstream_without_labels_may_count_as_something if {
	strict := object.union(settings, {"unlabelled": ["untrusted", "private", "external"]})
	data.rules.information_flow.label == {"untrusted", "private"} with input as call("new/tool", [], [])
		with data.information_flow as strict
	count(data.rules.information_flow.hold) == 1 with input as call("new/tool", [], both)
		with data.information_flow as strict
	count(data.rules.information_flow.hold) == 0 with input as call("new/tool", ["known"], both)
		with data.information_flow as strict
}

test_both_kinds_and_a_way_out_are_held if {
	every remembered in [both, ["private", "web"], ["a", "pii", "untrusted", "z"], ["overflow"]] {
		is_held(call("mail/send", ["external"], remembered))
	}
}

test_any_two_are_free if {
	every remembered in [[], ["pii"], ["private", "pii"], ["untrusted", "web"], ["other"]] {
		is_free(call("mail/send", ["external"], remembered))
	}
	is_free(call("files/read", ["pii"], both))
	is_free(call("time/now", [], both))
}

test_every_way_of_sending_is_one if {
	every action in [
		"mcp.tools.call", "mcp.prompts.get", "mcp.resources.read", "mcp.completion.complete", "a2a.message.send",
		"a2a.message.stream",
	] {
		is_held(use(action, "x", ["external"], both))
	}
	every action in ["mcp.tools.list", "mcp.initialize", "a2a.tasks.get", "a2a.card.read"] {
		is_free(use(action, "x", ["external"], both))
	}
}

connection(host, remembered, caller) := object.union(
	use("egress.connect", concat(":", [host, "443"]), [], remembered),
	{"resource": {"properties": {"host": host, "caller": caller}}},
)

test_a_connection_is_a_way_out_and_what_it_brings_is_untrusted if {
	is_held(connection("evil.example", both, {}))
	is_free(connection("evil.example", ["pii"], {}))
	is_free(connection("db.example.com", both, {}))
	labels_of(connection("evil.example", [], {})) == {"untrusted", "web"}
	labels_of(connection("db.example.com", [], {})) == set()
}

test_what_the_connecting_call_reads_counts_already if {
	is_held(connection("evil.example", ["untrusted"], {"id": "crm/read", "catalog": {"labels": ["pii"]}}))
	is_held(connection("evil.example", ["pii"], {"id": "fetch/get", "catalog": {"labels": []}}))
	is_free(connection("evil.example", ["untrusted"], {"id": "time/now", "catalog": {"labels": []}}))
}

test_notifications_go_out_too if {
	pushing := {"resource": {"properties": {"push": true, "push_host": "evil.example"}}}
	is_held(object.union(use("a2a.push.create", "t1", [], both), pushing))
	is_free(object.union(use("a2a.push.create", "t1", [], ["pii"]), pushing))
	ours := {"resource": {"properties": {"push": true, "push_host": "db.example.com"}}}
	is_free(object.union(use("a2a.push.create", "t1", [], both), ours))
}

test_the_title_says_which_labels_and_where_to if {
	holds(call("mail/send", ["external"], ["a", "untrusted", "pii"])) == {{
		"approvers": "role:security",
		"expires_s": 60,
		"title": "send to mail/send after reading what is labelled pii, untrusted",
	}}
	some request in holds(call("mail/send", ["external"], ["overflow"]))
	request.title == "send to mail/send after reading what is labelled overflow"
}

test_results_are_not_held if is_free(object.union(call("mail/send", ["external"], both), {"phase": "response"}))

test_a_server_outside_is_not_answered_by_the_model if {
	codes(use("mcp.sampling.create", "mail", ["external"], both)) == {"answer_would_leave"}
	codes(use("mcp.sampling.create", "mail", ["external"], ["pii"])) == set()
	codes(use("mcp.sampling.create", "mail", [], both)) == set()
	is_free(use("mcp.sampling.create", "mail", ["external"], both))
}

test_without_data_nothing_is_sent if {
	codes(call("mail/send", ["external"], [])) == set()
	every broken in [{}, {"sources": {}, "sinks": ["external"], "request": {"approvers": "role:security"}}] {
		{entry.code | some entry in data.rules.information_flow.deny} == {"flow_not_configured"} with input as call("time/now", [], [])
			with data.information_flow as broken
	}
}

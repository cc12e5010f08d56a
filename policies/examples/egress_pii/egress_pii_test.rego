package tests.egress_pii

import future.keywords.not

import data.interlock

use(labels, remembered, arguments) := {
	"subject": {"id": "ana"},
	"action": {"name": "mcp.tools.call"},
	"resource": {"id": "u/t", "properties": {"arguments": arguments, "catalog": {"labels": labels}}},
	"context": {"session": {"labels": remembered}},
}

kinds(question) := {entry.type |
	some entry in data.rules.egress_pii.obligation with input as question
}

codes(question) := {entry.code |
	some entry in data.rules.egress_pii.deny with input as question
}

good := {"url": "https://api.example.com/v1"}

test_personal_data_is_redacted_and_remembered if {
	kinds(use(["pii"], [], {})) == {"redact", "label"}
	kinds(use(["web"], [], {})) == {"label"}
	kinds(use([], [], {})) == set()
}

test_nothing_is_sent_after_personal_data_was_read if {
	codes(use(["egress"], ["pii"], good)) == {"no_egress_after_pii"}
	codes(use([], ["pii"], {})) == set()
}

test_a_person_is_asked_after_untrusted_text_was_read if {
	count(data.rules.egress_pii.hold) == 1 with input as use(["egress"], ["untrusted"], good)
	count(data.rules.egress_pii.hold) == 0 with input as use(["egress"], [], good)
}

test_only_listed_hosts_are_contacted if {
	codes(use(["egress"], [], good)) == set()
	every url in [
		"https://evil.example.com/", "http://api.example.com/", "https://api.example.com@evil.com/",
		"https://api.example.com:8443/", "https://api.example.com.evil.com/", "", "https://",
	] {
		codes(use(["egress"], [], {"url": url})) == {"host_not_listed"}
	}
	codes(use(["egress"], [], {})) == {"host_not_listed"}
}

test_alone_it_allows_nothing if {
	not interlock.decision.decision with input as use([], [], {})
}

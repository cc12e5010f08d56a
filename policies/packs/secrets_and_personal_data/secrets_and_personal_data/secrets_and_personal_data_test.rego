package tests.secrets_and_personal_data

import future.keywords.not

settings := {
	"trusted": {"secret": ["vault"], "personal_data": ["crm"]},
	"outside": ["external"],
	"request": {"approvers": "role:privacy", "expires_s": 60},
	"redact": {"secret": ["*"], "personal_data": ["pii"]},
	"withhold": {"secret": ["external"]},
	"label": "private",
}

secret := {"kind": "secret", "detector": "aws", "path": "/text"}

personal := {"kind": "personal_data", "detector": "iban", "path": "/text"}

unscanned := {"kind": "unscanned", "detector": "", "path": ""}

use(upstream, labels, findings) := {
	"phase": "request",
	"subject": {"id": "ana"},
	"action": {"name": "mcp.tools.call"},
	"resource": {"id": concat("/", [upstream, "t"]), "properties": {"upstream": upstream, "catalog": {"labels": labels}}},
	"context": {"findings": findings},
}

result(labels, findings) := object.union(use("u", labels, []), {
	"phase": "response",
	"resource": {"properties": {"result": {"findings": findings}}},
})

codes(question) := {entry.code |
	some entry in data.rules.secrets_and_personal_data.deny with input as question
		with data.secrets_and_personal_data as settings
}

holds(question) := found if {
	found := data.rules.secrets_and_personal_data.hold with input as question
		with data.secrets_and_personal_data as settings
}

redacts(question) := {entry.properties.detectors |
	some entry in data.rules.secrets_and_personal_data.obligation with input as question
		with data.secrets_and_personal_data as settings
}

labels_of(question) := found if {
	found := data.rules.secrets_and_personal_data.label with input as question
		with data.secrets_and_personal_data as settings
}

test_a_secret_goes_nowhere_but_to_whom_it_is_trusted if {
	codes(use("files", [], [secret])) == {"secret_in_arguments"}
	codes(use("mail", ["external"], [personal, secret])) == {"secret_in_arguments"}
	codes(use("vault", [], [secret])) == set()
	codes(use("files", [], [])) == set()
	codes(use("files", [], [personal, unscanned])) == set()
}

test_personal_data_goes_outside_with_somebodys_word if {
	holds(use("mail", ["external"], [personal])) == {{
		"approvers": "role:privacy",
		"expires_s": 60,
		"title": "send what may be personal data outside: mail/t",
	}}
	holds(use("files", [], [personal])) == set()
	holds(use("crm", ["external"], [personal])) == set()
	holds(use("mail", ["external"], [])) == set()
}

test_what_was_not_searched_goes_outside_with_somebodys_word if {
	count(holds(use("mail", ["external"], [unscanned]))) == 1
	count(holds(use("mail", ["external"], [personal, unscanned]))) == 1
	holds(use("files", [], [unscanned])) == set()
	holds(use("vault", ["external"], [unscanned])) == set()
}

test_results_are_not_held if {
	holds(object.union(use("mail", ["external"], [personal]), {"phase": "response"})) == set()
}

test_results_lose_what_is_to_be_taken_out if {
	redacts(use("files", [], [])) == {["secret"]}
	redacts(use("crm", ["pii"], [])) == {["personal_data", "secret"]}
	redacts(object.union(use("files", [], []), {"action": {"name": "mcp.tools.list"}})) == set()
}

test_results_with_something_unmentionable_are_withheld if {
	codes(result(["external"], [secret])) == {"result_withheld"}
	codes(result(["external"], [personal])) == set()
	codes(result([], [secret])) == set()
}

test_what_was_handed_out_as_it_is_marks_the_session if {
	labels_of(result([], [personal])) == {"private"}
	labels_of(result([], [unscanned])) == {"private"}
	labels_of(result([], [secret])) == set()
	labels_of(result(["pii"], [personal])) == set()
	labels_of(result([], [])) == set()
	labels_of(use("u", [], [])) == set()
}

test_without_data_nothing_passes if {
	every broken in [{}, {"request": {"approvers": "role:privacy"}}] {
		{entry.code | some entry in data.rules.secrets_and_personal_data.deny} == {"detection_not_configured"} with input as use("files", [], [])
			with data.secrets_and_personal_data as broken
	}
}

package tests.starter

import future.keywords.not

import data.interlock

who(roles) := {"type": "agent", "id": "key:demo", "properties": {"roles": roles}}

anonymous := {"type": "anonymous", "id": "", "properties": {"roles": []}}

use(roles, upstream, name, arguments) := {
	"phase": "request",
	"subject": who(roles),
	"action": {"name": "mcp.tools.call", "properties": {"method": "tools/call"}},
	"resource": {"type": "tool", "id": concat("/", [upstream, name]), "properties": {
		"upstream": upstream,
		"name": name,
		"arguments": arguments,
		"truncated": false,
		"catalog": {"risk": "medium", "labels": []},
	}},
	"context": {"env": "dev", "session": {"calls": 0, "labels": []}},
}

change(question, patch) := object.union(question, patch)

risky(question) := change(question, {"resource": {"properties": {"catalog": {"risk": "high"}}}})

labelled(question, label) := change(question, {"resource": {"properties": {"catalog": {"labels": [label]}}}})

permitted(question) if interlock.decision.decision with input as question

codes(question) := {reason.code |
	decision := interlock.decision with input as question
	decision.decision == false
	some reason in decision.context.reasons
}

obligations(question) := {entry.type |
	decision := interlock.decision with input as question
	some entry in decision.context.obligations
}

test_a_role_may_use_what_it_is_granted if {
	permitted(use(["developer"], "time", "get_current_time", {"timezone": "UTC"}))
	permitted(use(["developer"], "git", "git_diff_staged", {"repo_path": "/srv/demo"}))
	permitted(use(["writer"], "git", "git_commit", {"repo_path": "/srv/demo", "message": "x"}))
	permitted(use(["admin"], "anything", "whatever", {}))
	permitted(use(["dev"], "everything", "test_simple_text", {}))
}

test_nothing_else_is_allowed if {
	codes(use(["developer"], "warehouse", "query", {})) == {"no_rule_allows"}
	codes(use(["developer"], "git", "git_statuses", {})) == {"no_rule_allows"}
	codes(use(["dev"], "git", "git_status", {})) == {"no_rule_allows"}
	codes(use([], "time", "get_current_time", {})) == {"no_rule_allows"}
	codes(use(["*"], "time", "get_current_time", {})) == {"no_rule_allows"}
	codes(change(use(["developer"], "time", "get_current_time", {}), {"subject": anonymous})) == {"no_rule_allows"}
}

test_an_action_that_is_not_granted_is_denied_whatever_the_resource if {
	codes(change(use(["admin"], "time", "x", {}), {"action": {"name": "sandbox.exec"}})) == {"no_rule_allows"}
}

test_every_listing_is_open_to_subjects_but_not_to_nobody if {
	every action in [
		"mcp.initialize", "mcp.discover", "mcp.tools.list", "mcp.prompts.list", "mcp.resources.list",
		"mcp.templates.list", "mcp.subscriptions.listen",
	] {
		question := {
			"subject": who([]),
			"action": {"name": action},
			"resource": {"type": "mcp_server", "id": "*", "properties": {"upstream": "", "name": "*"}},
		}
		permitted(question)
		codes(change(question, {"subject": anonymous})) == {"no_rule_allows"}
	}
}

test_destructive_things_are_for_administrators if {
	codes(risky(use(["developer"], "time", "get_current_time", {}))) == {"needs_admin"}
	codes(labelled(use(["developer"], "time", "get_current_time", {}), "destructive")) == {"needs_admin"}
	permitted(risky(use(["admin"], "time", "get_current_time", {})))
}

test_only_writers_change_a_repository if {
	every name in ["git_add", "git_checkout", "git_commit", "git_create_branch", "git_reset"] {
		codes(use(["developer"], "git", name, {})) == {"needs_writer"}
		permitted(use(["writer"], "git", name, {}))
		permitted(use(["admin"], "git", name, {}))
	}
}

test_a_denial_says_why_and_what_helps if {
	refused := interlock.decision with input as use(["developer"], "git", "git_reset", {})
	refused.context.reasons == [{
		"code": "needs_writer",
		"message": "this changes the repository",
		"rule": "rules.starter",
		"public": true,
		"remedy": "use a key with the role writer",
	}]
}

test_paths_may_not_climb if {
	every path in ["..", "../etc", "/srv/../etc", "a/..", "a\\..\\b"] {
		codes(use(["writer"], "files", "read_text_file", {"path": path})) == {"path_escapes"}
		codes(use(["writer"], "files", "read_multiple_files", {"paths": ["ok", path]})) == {"path_escapes"}
		codes(use(["developer"], "git", "git_status", {"repo_path": path})) == {"path_escapes"}
	}
	every path in ["a..b", "/srv/x", "...", "", "a/.../b"] {
		permitted(use(["developer"], "files", "read_text_file", {"path": path}))
	}
	permitted(use(["developer"], "files", "read_text_file", {"path": 7}))
	permitted(use(["developer"], "files", "read_text_file", {"path": null}))
}

test_results_of_files_and_git_are_redacted if {
	obligations(use(["developer"], "git", "git_log", {})) == {"redact"}
	obligations(use(["developer"], "files", "read_text_file", {})) == {"redact"}
	obligations(use(["developer"], "time", "get_current_time", {})) == set()
}

test_changes_are_on_record_first if {
	obligations(use(["writer"], "git", "git_commit", {})) == {"redact", "audit"}
}

callback(roles, action, properties) := {
	"subject": who(roles),
	"action": {"name": action},
	"resource": {"type": "elicitation", "id": "everything", "properties": object.union(
		{"upstream": "everything", "name": "test_elicitation", "catalog": {}},
		properties,
	)},
}

test_forms_are_the_only_question_a_server_may_ask if {
	permitted(callback([], "mcp.elicitation.create", {"mode": "form"}))
	obligations(callback([], "mcp.elicitation.create", {"mode": "form"})) == {"rate"}
	codes(callback(["developer"], "mcp.elicitation.create", {"mode": "url"})) == {"no_rule_allows"}
	codes(callback(["developer"], "mcp.elicitation.create", {})) == {"no_rule_allows"}
	codes(callback(["developer"], "mcp.sampling.create", {})) == {"no_rule_allows"}
	codes(callback(["admin"], "mcp.roots.list", {})) == {"no_rule_allows"}
}

test_the_conformance_upstream_is_open_to_dev_only if {
	open := {"upstream": "conformance", "catalog": {"labels": ["conformance"]}}
	every action in ["mcp.sampling.create", "mcp.roots.list", "mcp.elicitation.create", "mcp.resources.read"] {
		permitted(callback(["dev"], action, open))
		codes(callback(["developer"], action, open)) == {"no_rule_allows"}
	}
}

candidate(upstream, name) := {"type": "tool", "id": concat("/", [upstream, name]), "properties": {
	"upstream": upstream,
	"name": name,
	"catalog": {"risk": "medium", "labels": []},
}}

shown(roles, candidates) := {name |
	indexes := interlock.visible with input as {
		"phase": "list",
		"subject": who(roles),
		"action": {"name": "mcp.tools.list", "properties": {"method": "tools/list"}},
		"resource": {"type": "mcp_server", "id": "*", "properties": {"candidates": candidates}},
	}
	some index in indexes
	name := candidates[index].id
}

test_a_list_shows_what_may_be_called if {
	names := [
		["git", "git_status"],
		["git", "git_commit"],
		["time", "get_current_time"],
		["files", "read_text_file"],
		["files", "write_file"],
		["warehouse", "query"],
	]
	every roles in [[], ["developer"], ["writer"], ["developer", "writer"], ["admin"], ["dev"]] {
		callable := {concat("/", name) | some name in names; permitted(use(roles, name[0], name[1], {}))}
		shown(roles, [candidate(name[0], name[1]) | some name in names]) == callable
	}
	shown(["developer"], [candidate("git", "git_status"), candidate("git", "git_commit")]) == {"git/git_status"}
}

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
	codes(change(use(["admin"], "time", "x", {}), {"action": {"name": "memory.unheard_of"}})) == {"no_rule_allows"}
	codes(change(use(["admin"], "time", "x", {}), {"action": {"name": "egress.connect"}})) == {"no_rule_allows"}
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

running(roles, environment) := {
	"subject": who(roles),
	"action": {"name": "sandbox.exec", "properties": {"method": "sandbox/exec"}},
	"resource": {"type": "sandbox", "id": environment, "properties": {
		"upstream": "sandbox",
		"name": environment,
		"arguments": {"operation": "run_code", "language": "python", "code": "print(1)", "session": "s"},
		"truncated": false,
		"catalog": {},
		"caller": {"action": "mcp.tools.call", "id": "sandbox/run_code", "upstream": "sandbox"},
	}},
}

test_code_runs_for_whom_the_sandbox_is_granted if {
	permitted(use(["developer"], "sandbox", "run_code", {"code": "print(1)"}))
	permitted(running(["developer"], "python"))
	permitted(running(["admin"], "python"))
	codes(running(["writer"], "python")) == {"no_rule_allows"}
	codes(running(["dev"], "python")) == {"no_rule_allows"}
	codes(change(running(["developer"], "python"), {"subject": anonymous})) == {"no_rule_allows"}
}

test_an_environment_is_granted_by_its_name if {
	grants := {"analyst": {"sandbox": ["run_code", "plain"]}}
	permitted(running(["analyst"], "plain")) with data.grants as grants
	codes(running(["analyst"], "python")) == {"no_rule_allows"} with data.grants as grants
}

connecting(roles, upstream, granted) := {
	"subject": who(roles),
	"action": {"name": "egress.connect", "properties": {"method": "egress/connect"}},
	"resource": {"type": "endpoint", "id": "api.example.org:443", "properties": {
		"upstream": upstream,
		"name": "api.example.org",
		"arguments": {},
		"truncated": false,
		"catalog": {"labels": ["conformance"]},
		"host": "api.example.org",
		"port": 443,
		"scheme": "tunnel",
		"box": {"driver": "bubblewrap", "level": "process"},
		"caller": {"action": "mcp.tools.call", "id": "everything/echo", "upstream": upstream},
		"granted": granted,
	}},
}

test_a_sandbox_reaches_no_host_but_what_its_call_was_granted if {
	every role in ["developer", "writer", "dev", "admin"] {
		every upstream in ["everything", "sandbox", "git"] {
			codes(connecting([role], upstream, false)) == {"no_rule_allows"}
			permitted(connecting([role], upstream, true))
		}
	}
}

test_a_refused_connection_says_what_helps if {
	refused := interlock.decision with input as connecting(["developer"], "everything", false)
	some reason in refused.context.reasons
	reason.remedy == "ask for an egress obligation that grants the call this host"
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

asking(roles, agent, action) := {
	"subject": who(roles),
	"action": {"name": action, "properties": {"protocol": "a2a", "method": "SendMessage"}},
	"resource": {"type": "agent", "id": agent, "properties": {
		"upstream": agent,
		"name": agent,
		"arguments": {"message": {"role": "ROLE_USER", "parts": [{"text": "hello"}]}},
		"truncated": false,
		"catalog": {"risk": "medium", "labels": []},
	}},
}

test_everybody_who_is_somebody_reads_the_catalogue if {
	reading := change(asking([], "*", "a2a.card.read"), {"action": {"properties": {"protocol": "a2a", "method": "catalog/read"}}})
	permitted(reading)
	codes(change(reading, {"subject": anonymous})) == {"no_rule_allows"}
}

governing(roles, action) := {
	"subject": who(roles),
	"action": {"name": action, "properties": {"protocol": "http", "method": action}},
	"resource": {"type": "switch", "id": "*", "properties": {"truncated": false}},
}

operated := {
	"approvals.list", "approvals.read", "switches.set", "switches.clear", "switches.list",
	"budgets.list", "budgets.read", "budgets.reset",
}

test_operators_see_what_is_held_and_pull_switches_and_vote_on_nothing if {
	every action in operated {
		permitted(governing(["operator"], action))
		permitted(governing(["interlock-admin"], action))
		codes(governing(["developer"], action)) == {"no_rule_allows"}
	}
	every action in ["approvals.approve", "approvals.deny"] {
		codes(governing(["operator", "interlock-admin", "admin"], action)) == {"no_rule_allows"}
	}
}

own_budgets(question, scope) := change(question, {"resource": {"type": "budget", "properties": {"arguments": {"scope": scope}}}})

test_everybody_who_is_somebody_sees_their_own_budgets_and_nobody_elses if {
	permitted(own_budgets(governing([], "budgets.list"), "mine"))
	codes(own_budgets(governing(["developer"], "budgets.list"), "all")) == {"no_rule_allows"}
	codes(own_budgets(change(governing([], "budgets.list"), {"subject": anonymous}), "mine")) == {"no_rule_allows"}
	every action in ["budgets.read", "budgets.reset"] {
		codes(own_budgets(governing(["developer"], action), "mine")) == {"no_rule_allows"}
	}
}

test_enforcement_points_ask_what_policy_says if {
	permitted(governing(["pep"], "authzen.evaluate"))
	permitted(governing(["interlock-admin"], "authzen.evaluate"))
	codes(governing(["operator"], "authzen.evaluate")) == {"no_rule_allows"}
}

asked(roles, provider, model) := {
	"phase": "request",
	"subject": who(roles),
	"action": {"name": "model.call", "properties": {"protocol": "model", "method": "chat.completions"}},
	"resource": {"type": "model", "id": concat("/", [provider, model]), "properties": {
		"upstream": provider,
		"name": model,
		"arguments": {"model": concat("/", [provider, model]), "messages": []},
		"truncated": false,
		"catalog": {"risk": "medium", "labels": [], "region": "eu"},
	}},
}

test_models_are_granted_like_tools if {
	grants := {"analyst": {"openai": ["gpt-5*"], "models": ["auto*"]}}
	permitted(asked(["analyst"], "openai", "gpt-5-mini")) with data.grants as grants
	permitted(asked(["analyst"], "models", "auto:cheap")) with data.grants as grants
	codes(asked(["analyst"], "openai", "o4")) == {"no_rule_allows"} with data.grants as grants
	codes(asked(["analyst"], "anthropic", "gpt-5-mini")) == {"no_rule_allows"} with data.grants as grants
	codes(change(asked(["analyst"], "openai", "gpt-5-mini"), {"subject": anonymous})) == {"no_rule_allows"} with data.grants as grants
	permitted(asked(["developer"], "echo", "echo"))
	codes(asked(["writer"], "echo", "echo")) == {"no_rule_allows"}
	codes(risky(asked(["developer"], "echo", "echo"))) == {"needs_admin"}
}

test_a_conversation_may_be_longer_than_a_question if {
	long := {"resource": {"properties": {"truncated": true}}}
	permitted(change(asked(["developer"], "echo", "echo"), long))
	codes(change(use(["developer"], "time", "get_current_time", {}), long)) == {"input_truncated"}
}

test_everybody_who_is_somebody_looks_at_the_models if {
	looking := change(asked([], "", "*"), {"action": {"name": "model.list"}})
	permitted(looking)
	codes(change(looking, {"subject": anonymous})) == {"no_rule_allows"}
}

test_the_list_of_models_shows_what_is_granted if {
	candidates := [asked([], "echo", "echo").resource, asked([], "openai", "gpt-5").resource]
	listing := {
		"phase": "list",
		"subject": who(["developer"]),
		"action": {"name": "model.list", "properties": {"protocol": "model", "method": "models"}},
		"resource": {"type": "model", "id": "*", "properties": {"candidates": candidates}},
	}
	interlock.visible == {0} with input as listing
}

test_an_agent_is_granted_as_a_whole if {
	grants := {"analyst": {"planner": ["*"]}, "clerk": {"planner": ["send"]}}
	every action in ["a2a.card.read", "a2a.message.send", "a2a.message.stream", "a2a.tasks.get", "a2a.push.create"] {
		permitted(asking(["analyst"], "planner", action)) with data.grants as grants
		codes(asking(["analyst"], "research", action)) == {"no_rule_allows"} with data.grants as grants
		codes(asking(["clerk"], "planner", action)) == {"no_rule_allows"} with data.grants as grants
		codes(change(asking(["analyst"], "planner", action), {"subject": anonymous})) == {"no_rule_allows"} with data.grants as grants
	}
	permitted(asking(["admin"], "planner", "a2a.message.send"))
	codes(asking(["stranger"], "planner", "a2a.message.send")) == {"no_rule_allows"}
}

memorized(roles, action, memory) := {
	"phase": "request",
	"subject": who(roles),
	"action": {"name": action, "properties": {"protocol": "mcp", "method": "memory/recall"}},
	"resource": {"type": "memory", "id": "default/x", "properties": {
		"upstream": "memory",
		"name": "default",
		"arguments": {},
		"truncated": false,
		"catalog": {"risk": "low", "labels": [], "memory": memory},
	}},
}

test_memory_is_granted_by_namespace if {
	grants := {"analyst": {"memory": ["def*"]}, "clerk": {"memory": ["other"]}}
	every action in ["memory.read", "memory.write", "memory.delete"] {
		permitted(memorized(["analyst"], action, {"scope": "agent"})) with data.grants as grants
		codes(memorized(["clerk"], action, {"scope": "agent"})) == {"no_rule_allows"} with data.grants as grants
		permitted(memorized(["developer"], action, {"scope": "agent", "whole": false}))
		codes(change(memorized(["developer"], action, {}), {"subject": anonymous})) == {"no_rule_allows"}
	}
}

test_what_concerns_all_of_a_tenants_memory_is_for_operators if {
	every action in ["memory.read", "memory.write", "memory.delete"] {
		codes(memorized(["developer"], action, {"whole": true})) == {"no_rule_allows"}
		permitted(memorized(["operator"], action, {"whole": true}))
		permitted(memorized(["interlock-admin"], action, {"whole": true}))
	}
}

worth(trust) := {"source": "tool", "of": {"source": "user", "trust": trust, "subject": "user:ana"}}

test_what_is_known_is_not_forgotten_on_the_word_of_what_was_read if {
	codes(memorized(["developer"], "memory.delete", worth(90))) == {"memory_protected"}
	permitted(memorized(["developer"], "memory.delete", worth(30)))
	permitted(memorized(["developer"], "memory.delete", object.union(worth(90), {"source": "agent"})))
}

memory_class(name) := {"type": "memory", "id": "x/*", "properties": {
	"upstream": "memory",
	"name": name,
	"catalog": {"memory": {}},
}}

test_the_list_of_memory_shows_what_is_granted if {
	grants := {"analyst": {"memory": ["a"]}}
	listing := {
		"phase": "list",
		"subject": who(["analyst"]),
		"action": {"name": "memory.read", "properties": {"protocol": "mcp", "method": "memory/recall"}},
		"resource": {"type": "memory", "id": "*/*", "properties": {"candidates": [memory_class("a"), memory_class("b")]}},
	}
	interlock.visible == {0} with input as listing with data.grants as grants
}

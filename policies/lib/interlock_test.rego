package tests.interlock

import future.keywords.not

import data.interlock

question := {
	"action": {"name": "mcp.tools.call", "properties": {}},
	"resource": {"type": "tool", "id": "bank/pay", "properties": {"truncated": false}},
}

answer(rules) := decision if {
	decision := interlock.decision with input as question with data.rules as rules
}

reasons(rules) := answer(rules).context.reasons

test_no_rules_at_all_deny if {
	answer({}).decision == false
	some reason in reasons({})
	reason.code == "no_rule_allows"
	reason.public
	contains(reason.message, "no rule package has an allow")
}

test_silence_names_the_packages_that_could_allow if {
	some reason in reasons({"a": {"allow": false}, "b": {"allow": false}})
	contains(reason.message, "mcp.tools.call on bank/pay")
	contains(reason.message, "rules.a or rules.b")
	reason.remedy != ""
}

test_a_team_says_what_would_help if {
	some reason in reasons({"a": {"allow": false, "remedy": {"ask finance"}}})
	reason.remedy == "ask finance"
}

test_one_allow_is_enough if {
	answer({"a": {"allow": false}, "b": {"allow": true}}) == {
		"decision": true,
		"context": {"obligations": [], "labels": []},
	}
}

test_an_allow_that_is_not_true_does_not_count if {
	every odd in ["true", 1, {}, {"x"}, [true], {"x": true}, null] {
		answer({"a": {"allow": odd}}).decision == false
	}
}

connection(granted) := {
	"action": {"name": "egress.connect", "properties": {}},
	"resource": {"type": "endpoint", "id": "api.example.org:443", "properties": {
		"host": "api.example.org",
		"port": 443,
		"granted": granted,
		"truncated": false,
	}},
}

connects(granted, rules) if {
	interlock.decision.decision with input as connection(granted) with data.rules as rules
}

test_a_connection_that_the_call_in_flight_was_granted_needs_no_allow if {
	connects(true, {})
	connects(true, {"a": {"allow": false}})
	every odd in [false, "true", 1, null, {}, [true]] {
		not connects(odd, {"a": {"allow": false}})
	}
	not connects(false, {})
	connects(false, {"a": {"allow": true}})
}

test_policy_has_the_last_word_on_a_granted_connection if {
	not connects(true, {"a": {"deny": {{"code": "no"}}}})
	not connects(true, {"a": {"deny": "of any shape"}})
	not connects(true, {"a": {"hold": {{"approvers": "group:x"}}}})
}

test_a_granted_connection_still_has_its_obligations if {
	capped := {"type": "egress", "properties": {"max_mb": 1}}
	decision := interlock.decision with input as connection(true) with data.rules as {"a": {"obligation": {capped}}}
	decision.context.obligations == [capped]
}

test_nothing_but_a_connection_is_granted_that_way if {
	every action in ["mcp.tools.call", "sandbox.exec", "egress.connect.x", "", null] {
		other := object.union(connection(true), {"action": {"name": action}})
		not interlock.decision.decision with input as other with data.rules as {"a": {"allow": false}}
	}
	smuggled := object.union(question, {"resource": {"properties": {"arguments": {"granted": true}, "granted": true}}})
	not interlock.decision.decision with input as smuggled with data.rules as {"a": {"allow": false}}
	argument := object.union(connection(false), {"resource": {"properties": {"arguments": {"granted": true}}}})
	not interlock.decision.decision with input as argument with data.rules as {"a": {"allow": false}}
}

test_a_list_shows_no_endpoint if {
	listing := {
		"action": {"name": "mcp.tools.list", "properties": {}},
		"resource": {"properties": {"candidates": [connection(true).resource]}},
	}
	count(interlock.visible) == 0 with input as listing with data.rules as {"a": {"allow": true}}
}

test_deny_of_one_team_beats_allow_of_another if {
	answer({"a": {"allow": true}, "b": {"deny": {{"code": "no"}}}}).decision == false
}

test_a_reason_is_filled_in_with_what_shows_least if {
	reasons({"a": {"deny": {{"code": "no", "public": "yes", "message": 7, "extra": 1}}}}) == [{
		"code": "no",
		"message": "",
		"rule": "rules.a",
		"public": false,
		"remedy": "",
	}]
}

test_a_full_reason_is_kept if {
	whole := {"code": "no", "message": "why", "rule": "r", "public": true, "remedy": "how"}
	reasons({"a": {"deny": {whole}}}) == [whole]
}

test_a_deny_of_any_shape_denies if {
	every odd in ["text", 1, true, null, {"code": "x"}, {"x": true}, ["text"], {"text"}, [[]], {1}, ""] {
		answer({"a": {"allow": true, "deny": odd}}).decision == false
		count(reasons({"a": {"allow": true, "deny": odd}})) == 1
	}
}

test_a_text_is_a_private_message if {
	reasons({"a": {"deny": {"because"}}}) == [{
		"code": "denied",
		"message": "because",
		"rule": "rules.a",
		"public": false,
		"remedy": "",
	}]
}

test_an_empty_deny_does_not_deny if {
	every nothing in [set(), [], {}, false] {
		answer({"a": {"allow": true, "deny": nothing, "hold": nothing}}).decision == true
	}
}

test_reasons_of_all_teams_are_given if {
	count(reasons({"a": {"deny": {"x"}}, "b": {"deny": {"x", "y"}}})) == 3
}

test_hold_beats_allow_and_is_not_a_yes if {
	answer({"a": {"allow": true, "hold": {{"approvers": "group:finance", "title": "pay"}}}}) == {
		"decision": false,
		"context": {"access_request": {"approvers": "group:finance", "title": "pay"}},
	}
}

test_hold_without_allow_is_a_deny if {
	some reason in reasons({"a": {"allow": false, "hold": {{"approvers": "group:finance"}}}})
	reason.code == "no_rule_allows"
}

test_deny_beats_hold if {
	some reason in reasons({"a": {"allow": true, "hold": {{"approvers": "g"}}}, "b": {"deny": {"x"}}})
	reason.code == "denied"
}

test_hold_without_approvers_is_a_deny if {
	every odd in ["text", true, {"approvers": ""}, [{"approvers": ""}], {{"approvers": ["a"]}}, {{}}, 1, null] {
		every reason in reasons({"a": {"allow": true, "hold": odd}}) {
			reason.code == "hold_invalid"
		}
		count(reasons({"a": {"allow": true, "hold": odd}})) == 1
	}
}

test_several_holds_ask_for_all if {
	held := answer({"a": {"allow": true, "hold": {{"approvers": "a"}}}, "b": {"hold": {{"approvers": "b", "title": "t"}}}})
	held.context.access_request.all_of == [{"approvers": "a"}, {"approvers": "b", "title": "t"}]
	held.context.access_request.approvers == "a and b"
}

test_obligations_and_labels_of_all_teams_are_collected if {
	answer({
		"a": {"allow": true, "obligation": {{"type": "audit", "properties": {}}}, "label": {"pii"}},
		"b": {"obligation": {{"type": "rate", "properties": {"limit": 1}}}, "label": ["x"]},
	}).context == {
		"obligations": [{"type": "audit", "properties": {}}, {"type": "rate", "properties": {"limit": 1}}],
		"labels": ["pii", "x"],
	}
}

test_an_obligation_of_any_shape_reaches_the_gateway if {
	every odd in ["text", 1, true, null, {"type": "rate"}] {
		answer({"a": {"allow": true, "obligation": odd}}).context.obligations == [odd]
	}
}

long := object.union(question, {"resource": {"properties": {"truncated": true}}})

test_truncated_is_denied if {
	refused := interlock.decision with input as long with data.rules as {"a": {"allow": true}}
	refused.decision == false
	some reason in refused.context.reasons
	reason.code == "input_truncated"
}

test_truncated_is_judged_where_every_package_accepts_it if {
	interlock.decision.decision with input as long
		with data.rules as {"a": {"allow": true, "accepts_truncated": true}}
	not interlock.decision.decision with input as long
		with data.rules as {"a": {"allow": true, "accepts_truncated": true}, "b": {"allow": false}}
	not interlock.decision.decision with input as long
		with data.rules as {"a": {"allow": true, "accepts_truncated": "yes"}}
}

test_a_mark_that_is_not_false_is_truncated if {
	every odd in [1, "no", null, {}] {
		marked := object.union(question, {"resource": {"properties": {"truncated": odd}}})
		not interlock.decision.decision with input as marked with data.rules as {"a": {"allow": true}}
	}
}

test_an_empty_question_is_denied if {
	every odd in [{}, [], null, "x", 1] {
		refused := interlock.decision with input as odd with data.rules as {"a": {"allow": false}}
		refused.decision == false
	}
}

candidate(type, name) := {"type": type, "id": name, "properties": {"upstream": "u", "name": name}}

list(candidates) := {
	"phase": "list",
	"subject": {"id": "x"},
	"action": {"name": "mcp.tools.list", "properties": {"method": "tools/list"}},
	"resource": {"type": "mcp_server", "id": "u", "properties": {"candidates": candidates}},
}

test_no_rules_show_nothing if {
	interlock.visible == set() with input as list([candidate("tool", "a")]) with data.rules as {}
}

test_what_is_denied_is_not_shown if {
	interlock.visible == set() with input as list([candidate("tool", "a")])
		with data.rules as {"a": {"allow": true}, "b": {"deny": {"x"}}}
}

test_a_malformed_list_shows_nothing if {
	every odd in [null, "x", 1, {}, [1, "x", null, {}, {"type": 1}]] {
		interlock.visible == set() with input as list(odd) with data.rules as {"a": {"allow": true}}
	}
}

# ---- what people agreed to ----

agreed(rules, covers) := decision if {
	decision := interlock.decision with data.rules as rules
		with input as object.union(question, {"context": {"approval": {"id": "apr-1", "approvers": ["user:bo"], "covers": covers}}})
}

finance := {"approvers": "group:finance", "title": "pay"}

test_a_hold_that_people_agreed_to_holds_no_more if {
	agreed({"a": {"allow": true, "hold": {finance}}}, [finance]).decision == true
	agreed({"a": {"allow": true, "hold": [finance]}}, [finance]).decision == true
	agreed({"a": {"allow": true, "hold": {finance}}, "b": {"hold": {{"approvers": "role:it"}}}}, [finance, {"approvers": "role:it"}]).decision == true
}

test_an_agreement_covers_just_what_was_agreed_to if {
	every rules in [
		{"a": {"allow": true, "hold": {object.union(finance, {"title": "pay more"})}}},
		{"a": {"allow": true, "hold": {finance, {"approvers": "role:it"}}}},
		{"a": {"allow": true, "hold": {finance}}, "b": {"hold": {{"approvers": "role:it"}}}},
	] {
		agreed(rules, [finance]).context.access_request.approvers != ""
	}
	every covers in [[], {}, "", null, [null], {"finance": true}] {
		agreed({"a": {"allow": true, "hold": {finance}}}, covers).decision == false
	}
}

test_an_agreement_is_no_allow_and_lifts_no_deny if {
	agreed({"a": {"allow": false, "hold": {finance}}}, [finance]).decision == false
	agreed({"a": {"allow": true, "hold": {finance}, "deny": {"x"}}}, [finance]).decision == false
}

vote(action, properties) := decision if {
	asked := {
		"action": {"name": action, "properties": {}},
		"resource": {"type": "approval", "id": "apr-1", "properties": object.union({"truncated": false}, properties)},
	}
	decision := interlock.decision with input as asked with data.rules as {"a": {"allow": false}}
}

test_whoever_is_asked_may_vote_and_nobody_else if {
	every action in ["approvals.list", "approvals.read", "approvals.approve", "approvals.deny"] {
		vote(action, {"granted": true}).decision == true
		vote(action, {"granted": false}).decision == false
		vote(action, {"granted": "true"}).decision == false
		vote(action, {}).decision == false
	}
	vote("switches.set", {"granted": true}).decision == false
	vote("mcp.tools.call", {"granted": true}).decision == false
}

test_whoever_may_not_vote_learns_why if {
	every obstacle in ["expired", "not_asked", "over", "own", "voted"] {
		some reason in vote("approvals.approve", {"granted": false, "obstacle": obstacle}).context.reasons
		reason.code == concat("_", ["approval", obstacle])
		reason.message != ""
		reason.public
	}
	some reason in vote("approvals.approve", {"granted": false, "obstacle": "new"}).context.reasons
	reason.code == "no_rule_allows"
}

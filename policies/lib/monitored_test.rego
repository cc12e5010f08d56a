package tests.monitored

import future.keywords.not

import data.interlock

call := {"resource": {"type": "tool", "id": "shop/buy", "properties": {"truncated": false}}}

test_what_a_rule_would_say_is_found if {
	interlock.monitored == [{"code": "dear", "message": "too dear", "rule": "rules.shop", "would": "deny"}] with input as call
		with data.rules as {"shop": {"allow": true, "monitor": {{"would": "deny", "code": "dear", "message": "too dear"}}}}
}

test_it_changes_no_decision if {
	interlock.decision.decision == true with input as call
		with data.rules as {"shop": {"allow": true, "monitor": {{"would": "deny", "code": "dear", "message": "no"}}}}
}

test_an_entry_of_any_other_shape_is_found_too if {
	interlock.monitored == [{"code": "monitored", "message": "odd", "rule": "rules.shop", "would": ""}] with input as call
		with data.rules as {"shop": {"monitor": {"odd"}}}
}

test_nothing_is_found_where_nothing_is_monitored if {
	interlock.monitored == [] with input as call with data.rules as {"shop": {"allow": true}}
}

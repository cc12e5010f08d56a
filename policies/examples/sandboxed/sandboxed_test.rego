package tests.sandboxed

import future.keywords.not

import data.interlock

question(roles, action, upstream, name) := {
	"subject": {"id": "key:demo", "properties": {"roles": roles}},
	"action": {"name": action},
	"resource": {"id": concat("/", [upstream, name]), "properties": {
		"upstream": upstream,
		"name": name,
		"truncated": false,
	}},
	"context": {"session": {"labels": []}},
}

install := question(["coder"], "mcp.tools.call", "packages", "install")

running(roles) := question(roles, "sandbox.exec", "sandbox", "python")

connection(host, port, granted) := object.union(
	question(["coder"], "egress.connect", "packages", host),
	{"resource": {"properties": {
		"host": host,
		"port": port,
		"granted": granted,
		"caller": {"upstream": "packages", "id": "packages/install", "catalog": {"labels": []}},
	}}},
)

permitted(asked) if interlock.decision.decision with input as asked

codes(asked) := {reason.code |
	decision := interlock.decision with input as asked
	decision.decision == false
	some reason in decision.context.reasons
}

asked_for(asked, kind) := {entry.properties |
	decision := interlock.decision with input as asked
	some entry in decision.context.obligations
	entry.type == kind
}

test_code_runs_for_two_roles_only if {
	permitted(running(["coder"]))
	permitted(running(["contractor"]))
	codes(running(["analyst"])) == {"no_rule_allows"}
	codes(running([])) == {"no_rule_allows"}
	codes(question(["coder"], "sandbox.exec", "other", "python")) == {"no_rule_allows"}
}

test_code_of_contractors_needs_gvisor if {
	{asked.level | some asked in asked_for(running(["contractor"]), "sandbox")} == {"process", "gvisor"}
	{asked.level | some asked in asked_for(running(["coder"]), "sandbox")} == {"process"}
	{asked.level | some asked in asked_for(running(["coder", "contractor"]), "sandbox")} == {"process", "gvisor"}
}

test_the_index_is_granted_to_one_tool_alone if {
	granted := {host | some asked in asked_for(install, "egress"); some host in asked.hosts}
	granted == {"index.example.org", "*.files.example.org"}
	asked_for(question(["coder"], "mcp.tools.call", "packages", "search"), "egress") == set()
	asked_for(running(["coder"]), "egress") == set()
}

test_a_connection_is_decided_by_host_port_and_caller if {
	permitted(connection("status.example.org", 443, false))
	codes(connection("status.example.org", 80, false)) == {"no_rule_allows"}
	codes(connection("evil.example.net", 443, false)) == {"no_rule_allows"}
	codes(connection("x.status.example.org", 443, false)) == {"no_rule_allows"}
	other := {"resource": {"properties": {"caller": {"upstream": "sandbox"}}}}
	codes(object.union(connection("status.example.org", 443, false), other)) == {"no_rule_allows"}
	permitted(connection("index.example.org", 443, true))
	codes(connection("index.example.org", 443, false)) == {"no_rule_allows"}
}

test_every_connection_has_caps if {
	caps := {{"max_mb": 200, "max_connections": 8}}
	asked_for(connection("status.example.org", 443, false), "egress") == caps
	asked_for(connection("index.example.org", 443, true), "egress") == caps
}

test_labelled_data_is_not_carried_out if {
	upload := connection("uploads.example.org", 443, false)
	permitted(upload)
	reading := {"resource": {"properties": {"caller": {"catalog": {"labels": ["pii"]}}}}}
	after := {"context": {"session": {"labels": ["pii"]}}}
	every change in [reading, after] {
		codes(object.union(upload, change)) == {"may_carry_data_out"}
		granted := object.union(connection("uploads.example.org", 443, true), change)
		codes(granted) == {"may_carry_data_out"}
		permitted(object.union(connection("status.example.org", 443, false), change))
	}
}

test_no_address_within_is_reached_even_if_granted if {
	every host in [
		"10.0.0.1", "127.0.0.1", "169.254.169.254", "172.16.3.4", "192.168.1.1", "::1", "::ffff:10.0.0.1", "fd00::1",
		"fe80::1",
	] {
		codes(connection(host, 443, true)) == {"private_address"}
	}
	every host in ["192.0.2.1", "2001:db8::1", "10.example.org", "index.example.org", ""] {
		permitted(connection(host, 443, true))
	}
}

package tests.egress_allow_list

import future.keywords.not

settings := {
	"hosts": {
		"api.example.com": {"ports": [443], "upstreams": ["*"]},
		"*.files.example.com": {"ports": [443, 8443], "upstreams": ["packages"]},
		"db.example.com": {"ports": [5432], "upstreams": ["*"]},
	},
	"senders": ["external"],
	"links": ["url", "urls"],
}

allowed(question) if data.rules.egress_allow_list.allow with input as question with data.egress_allow_list as settings

codes(question) := {entry.code |
	some entry in data.rules.egress_allow_list.deny with input as question with data.egress_allow_list as settings
}

connection(host, port, upstream) := {
	"subject": {"id": "ana"},
	"action": {"name": "egress.connect"},
	"resource": {"properties": {"host": host, "port": port, "granted": true, "caller": {"upstream": upstream}}},
}

test_a_listed_host_is_reached if {
	every question in [
		connection("api.example.com", 443, "git"), connection("a.files.example.com", 443, "packages"),
		connection("a.files.example.com", 8443, "packages"),
	] {
		allowed(question)
		codes(question) == set()
	}
}

test_any_other_is_not_even_if_it_was_granted if {
	every question in [
		connection("evil.example.com", 443, "git"), connection("api.example.com", 80, "git"),
		connection("a.files.example.com", 443, "git"), connection("files.example.com", 443, "packages"),
		connection(".files.example.com", 443, "packages"), connection("", 443, "packages"),
		connection(7, 443, "packages"),
	] {
		not allowed(question)
		codes(question) == {"host_not_listed"}
	}
}

test_nobody_and_a_connection_of_no_call_reach_nothing_for_some if {
	not allowed(object.union(connection("api.example.com", 443, "git"), {"subject": {"id": ""}}))
	unknown := {"action": {"name": "egress.connect"}, "resource": {"properties": {
		"host": "a.files.example.com",
		"port": 443,
		"caller": {},
	}}}
	codes(unknown) == {"host_not_listed"}
}

use(labels, arguments) := {
	"subject": {"id": "ana"},
	"action": {"name": "mcp.tools.call"},
	"resource": {"id": "u/t", "properties": {"arguments": arguments, "catalog": {"labels": labels}}},
}

bad_links := [
	"https://evil.example.com/", "http://api.example.com/", "https://api.example.com@evil.com/",
	"https://api.example.com:8443/", "https://api.example.com.evil.com/", "https://api.example.com\\@evil.com/",
	"https://evil.com?.files.example.com", "https://evil.com#.files.example.com", "https://", "https:///x",
	"https://API.example.com.evil/", " https://evil.com", "ftp://api.example.com/", "https:\\\\evil.com",
	"https://db.example.com/", "https://.files.example.com/",
]

test_links_lead_to_listed_hosts_only if {
	every good in ["https://api.example.com/v1?x=1", "https://api.example.com", "https://a.files.example.com/b"] {
		codes(use(["external"], {"url": good})) == set()
		codes(use(["external"], {"other": good})) == set()
	}
	every bad in bad_links {
		codes(use(["external"], {"url": bad})) == {"link_not_listed"}
		codes(use(["external"], {"urls": ["https://api.example.com", bad]})) == {"link_not_listed"}
		codes(use(["external"], {"other": bad})) == {"link_not_listed"}
		codes(use(["external"], {"other": ["x", {"deep": bad}]})) == {"link_not_listed"}
		codes(use([], {"url": bad})) == set()
	}
}

test_what_is_named_like_a_link_has_to_be_one if {
	every bad in ["", "evil.com", 7, null, {"host": "evil.com"}, [7], ["evil.com"]] {
		codes(use(["external"], {"url": bad})) == {"link_not_listed"}
	}
	codes(use(["external"], {"urls": []})) == set()
	codes(use(["external"], {"text": "see https://evil.com for more", "n": 7, "list": ["a", 7], "when": {"at": "10:00"}})) == set()
	codes(use(["external"], {})) == set()
}

test_a_list_has_no_arguments_and_shows_the_tool if {
	listed := {"action": {"name": "mcp.tools.call"}, "resource": {"properties": {"catalog": {"labels": ["external"]}}}}
	codes(listed) == set()
}

message(properties) := {
	"action": {"name": "a2a.message.send", "properties": {"protocol": "a2a"}},
	"resource": {"properties": object.union({"url_hosts": [], "push": false, "push_host": ""}, properties)},
}

test_messages_link_to_listed_hosts_and_notify_them if {
	codes(message({})) == set()
	codes(message({"url_hosts": ["api.example.com"]})) == set()
	codes(message({"url_hosts": ["api.example.com", "evil.com"]})) == {"link_not_listed"}
	codes(message({"url_hosts": [""]})) == {"link_not_listed"}
	codes(message({"push": true, "push_host": "api.example.com"})) == set()
	codes(message({"push": true, "push_host": ""})) == {"receiver_not_listed"}
	codes(message({"push": true, "push_host": "evil.com"})) == {"receiver_not_listed"}
}

test_a_server_sends_the_user_to_listed_hosts_only if {
	asking := {"action": {"name": "mcp.elicitation.create"}, "resource": {"properties": {"mode": "url", "url_host": "evil.com"}}}
	codes(asking) == {"link_not_listed"}
	codes(object.union(asking, {"resource": {"properties": {"url_host": "api.example.com"}}})) == set()
	codes(object.union(asking, {"resource": {"properties": {"mode": "form", "url_host": ""}}})) == set()
}

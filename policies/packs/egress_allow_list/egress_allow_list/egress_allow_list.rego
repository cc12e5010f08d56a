# One list of hosts, and nothing leaves to any other: connections out of sandboxes, links in arguments and messages.
#
# The list stands in data.json. It has the last word: a host that another rule grants and the list does not have is
# refused. ../README.md has what to edit.
package rules.egress_allow_list

import future.keywords.not

default allow := false

allow if {
	input.action.name == "egress.connect"
	listed_connection
	input.subject.id != ""
}

deny contains {
	"code": "host_not_listed",
	"message": "this host is not on the list of those that may be contacted",
	"public": true,
	"remedy": remedy_text,
} if {
	input.action.name == "egress.connect"
	not listed_connection
}

listed_connection if {
	some pattern, entry in data.egress_allow_list.hosts
	input.resource.properties.port in entry.ports
	serves(entry.upstreams)
	matches(pattern, input.resource.properties.host)
}

serves(upstreams) if "*" in upstreams

serves(upstreams) if input.resource.properties.caller.upstream in upstreams

# Tools that send somewhere are told where by an argument: one that is named like a link, or that begins like one.
deny contains refused_link(name) if {
	input.action.name == "mcp.tools.call"
	sends
	some name in data.egress_allow_list.links
	value := input.resource.properties.arguments[name]
	not is_array(value)
	not listed_link(value)
}

deny contains refused_link(name) if {
	input.action.name == "mcp.tools.call"
	sends
	some name in data.egress_allow_list.links
	value := input.resource.properties.arguments[name]
	is_array(value)
	some text in value
	not listed_link(text)
}

deny contains refused_link(name) if {
	input.action.name == "mcp.tools.call"
	sends
	some name, value in input.resource.properties.arguments
	not name in data.egress_allow_list.links
	leads_away(value)
}

refused_link(name) := {
	"code": "link_not_listed",
	"message": concat("", ["the argument ", name, " leads to a host that is not on the list"]),
	"public": true,
	"remedy": remedy_text,
}

sends if {
	some label in input.resource.properties.catalog.labels
	label in data.egress_allow_list.senders
}

# A text that begins like a link, and a list or object with anything like one in it: what is nested is not looked up,
# so it is given in an argument that `links` names, or not at all.
leads_away(value) if {
	is_string(value)
	regex.match("^[ \\t\\n\\r]*[A-Za-z][-A-Za-z0-9+.]+:[\\\\/]", value)
	not listed_link(value)
}

leads_away(value) if {
	not is_string(value)
	regex.match("[A-Za-z][-A-Za-z0-9+.]+:[\\\\/]", json.marshal(value))
}

# An https URL without credentials or port, written plainly: whatever looks different is on no list.
listed_link(text) if {
	is_string(text)
	startswith(text, "https://")
	host := split(substring(text, 8, -1), "/")[0]
	regex.match("^[a-z0-9][a-z0-9.-]*[a-z0-9]$", host)
	listed(host)
}

# A host for links: on the list for port 443, whichever upstream it is there for.
listed(host) if {
	some pattern, entry in data.egress_allow_list.hosts
	443 in entry.ports
	matches(pattern, host)
}

matches(pattern, host) if pattern == host

matches(pattern, host) if {
	startswith(pattern, "*.")
	is_string(host)
	endswith(host, substring(pattern, 1, -1))
	not startswith(host, ".")
}

# An agent fetches what a message links to, and sends notifications where it is told.
deny contains {
	"code": "link_not_listed",
	"message": "the message has a link to a host that is not on the list",
	"public": true,
	"remedy": remedy_text,
} if {
	input.action.properties.protocol == "a2a"
	some host in input.resource.properties.url_hosts
	not listed(host)
}

deny contains {
	"code": "receiver_not_listed",
	"message": "notifications would go to a host that is not on the list",
	"public": true,
	"remedy": remedy_text,
} if {
	input.action.properties.protocol == "a2a"
	input.resource.properties.push == true
	not listed(input.resource.properties.push_host)
}

# A server may send the user's browser only where the list leads.
deny contains {
	"code": "link_not_listed",
	"message": "the server asks the user to open a page on a host that is not on the list",
	"public": true,
	"remedy": remedy_text,
} if {
	input.action.name == "mcp.elicitation.create"
	input.resource.properties.mode == "url"
	not listed(input.resource.properties.url_host)
}

remedy_text := "ask whoever keeps egress_allow_list/data.json to add the host"

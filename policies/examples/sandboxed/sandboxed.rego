# Code of agents and of others: who may run it, how strongly it is kept apart, and the few hosts that it reaches.
#
# There is an upstream `packages` whose tool `install` has to reach an index of packages, and the built-in upstream
# `sandbox`, which runs code that agents write.
package rules.sandboxed

import future.keywords.not

default allow := false

allow if {
	input.action.name in {"mcp.tools.call", "sandbox.exec"}
	input.resource.properties.upstream in {"packages", "sandbox"}
	some role in input.subject.properties.roles
	role in {"coder", "contractor"}
}

# Nobody's code uses up the machine. Of several obligations the highest level and the least limits hold.
obligation contains {"type": "sandbox", "properties": {
	"level": "process",
	"limits": {"memory_mb": 512, "processes": 64, "wall_s": 60},
}} if {
	input.action.name == "sandbox.exec"
}

# What contractors run is kept apart by a kernel of its own, or not run.
obligation contains {"type": "sandbox", "properties": {"level": "gvisor", "limits": {"memory_mb": 256}}} if {
	input.action.name == "sandbox.exec"
	"contractor" in input.subject.properties.roles
}

# While this tool runs, and no longer, its sandbox reaches the index: both hosts in one obligation, for of several
# obligations only what is in all of them is granted.
obligation contains {"type": "egress", "properties": {
	"hosts": ["index.example.org", "*.files.example.org"],
	"max_mb": 100,
	"max_s": 60,
}} if {
	input.action.name == "mcp.tools.call"
	input.resource.id == "packages/install"
}

# The other way: to be asked about each connection, with the call that causes it.
allow if {
	connecting
	input.resource.properties.caller.upstream == "packages"
	input.resource.properties.host in {"status.example.org", "uploads.example.org"}
	input.resource.properties.port == 443
}

# Caps for every connection, however it was permitted.
obligation contains {"type": "egress", "properties": {"max_mb": 200, "max_connections": 8}} if connecting

# What holds data for others to fetch is out of reach for calls that read labelled data, even where it was granted.
deny contains {
	"code": "may_carry_data_out",
	"message": "this host takes data in, and the call reads personal data or comes after one that did",
	"public": true,
	"remedy": "do it in a session of its own, with a tool that reads no personal data",
} if {
	connecting
	input.resource.properties.host == "uploads.example.org"
	"pii" in read
}

read contains label if some label in input.resource.properties.caller.catalog.labels

read contains label if some label in input.context.session.labels

# An address within is nobody's to name, even where a rule of another team grants it. (A name that leads to one is
# refused by the gateway, unless an obligation names its range.)
deny contains {
	"code": "private_address",
	"message": "addresses of the internal network are out of reach for sandboxes",
	"public": true,
	"remedy": "use an upstream that offers what is needed as a tool",
} if {
	connecting
	within
}

within if {
	net.cidr_is_valid(concat("/", [input.resource.properties.host, "32"]))
	some range in ["10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"]
	net.cidr_contains(range, input.resource.properties.host)
}

within if {
	contains(input.resource.properties.host, ":")
	some range in ["::/8", "fc00::/7", "fe80::/10"]
	net.cidr_contains(range, input.resource.properties.host)
}

connecting if input.action.name == "egress.connect"

remedy contains "have a role that may run code, and reach the hosts that this pack names"

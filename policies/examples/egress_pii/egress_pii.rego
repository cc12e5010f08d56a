# What was read may not leave: personal data is taken out of results, and a session that has read something untrusted
# or personal may no longer use tools that send things out.
#
# Put it beside a package that allows: this one only denies, holds and asks for obligations.
package rules.egress_pii

import future.keywords.not

# Results of upstreams labelled `pii` lose what looks personal, and mark the session.
obligation contains {"type": "redact", "properties": {"patterns": ["email", "credit_card"]}} if {
	"pii" in input.resource.properties.catalog.labels
}

obligation contains {"type": "label", "properties": {"labels": ["pii"]}} if {
	"pii" in input.resource.properties.catalog.labels
}

# What comes from the open web may carry instructions for the model.
obligation contains {"type": "label", "properties": {"labels": ["untrusted"]}} if {
	"web" in input.resource.properties.catalog.labels
}

deny contains {
	"code": "no_egress_after_pii",
	"message": "this session has read personal data, so nothing may be sent out of it",
	"public": true,
	"remedy": "do it in a session of its own, before personal data is read",
} if {
	sends
	"pii" in input.context.session.labels
}

hold contains {"approvers": "group:security", "title": "send something after reading untrusted text"} if {
	sends
	"untrusted" in input.context.session.labels
}

# A host that was not agreed on is refused whatever was read.
deny contains {
	"code": "host_not_listed",
	"message": "this host is not on the list of those that may be contacted",
	"public": true,
	"remedy": "ask for the host to be added to data.json",
} if {
	sends
	args := input.resource.properties.arguments
	not host(args) in data.hosts
}

sends if "egress" in input.resource.properties.catalog.labels

# The host of an https URL without credentials or port: whatever looks different has none, and is refused.
host(args) := found if {
	startswith(args.url, "https://")
	found := split(substring(args.url, 8, -1), "/")[0]
	not strings.any_suffix_match(found, ["."])
	not contains(found, "@")
	not contains(found, ":")
}

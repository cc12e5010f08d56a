# Secrets are not sent anywhere, personal data not outside without somebody's word, and results lose both on the way in.
#
# What is a secret or personal data the gateway's detectors say (`findings`); what follows from it is said here. Put it
# beside a package that allows: this one only denies, holds and redacts. ../README.md has what to edit.
package rules.secrets_and_personal_data

import future.keywords.not

# ---- arguments ----

deny contains {
	"code": "secret_in_arguments",
	"message": concat("", ["the argument at ", finding.path, " looks like a secret"]),
	"public": true,
	"remedy": "name the secret instead of sending it, or have the upstream listed in `trusted.secret`",
} if {
	some finding in input.context.findings
	finding.kind == "secret"
	not trusted("secret")
}

# Only the request is held: once it was carried out, there is nothing left to agree to.
hold contains object.union(data.secrets_and_personal_data.request, {"title": title}) if {
	input.phase == "request"
	count(doubtful) > 0
}

title := concat("", ["send what may be ", concat(" and ", sort(doubtful)), " outside: ", input.resource.id])

doubtful contains "personal data" if {
	outside
	some finding in input.context.findings
	finding.kind == "personal_data"
	not trusted("personal_data")
}

doubtful contains "anything (it is too long to be searched, or nothing is there to search it)" if {
	outside
	some finding in input.context.findings
	finding.kind == "unscanned"
	not trusted("secret")
}

trusted(kind) if input.resource.properties.upstream in data.secrets_and_personal_data.trusted[kind]

outside if marked(data.secrets_and_personal_data.outside)

# ---- results ----

obligation contains {"type": "redact", "properties": {"detectors": sort(redacted)}} if {
	input.action.name in carrying
	count(redacted) > 0
}

redacted contains kind if {
	some kind, labels in data.secrets_and_personal_data.redact
	marked(labels)
}

# Taking something out needs no look at the result; what comes next does, so each result is a question of its own.
deny contains {
	"code": "result_withheld",
	"message": "the result has something in it that may not be handed out",
	"public": true,
	"remedy": "ask for less, or have the upstream's labels taken off `withhold`",
} if {
	input.phase == "response"
	some kind, labels in data.secrets_and_personal_data.withhold
	marked(labels)
	kind in found
}

found contains finding.kind if some finding in input.resource.properties.result.findings

# What reaches the caller as it is marks its session (see the pack information_flow). What could not be searched might
# be anything.
label contains data.secrets_and_personal_data.label if {
	input.phase == "response"
	some kind in found
	not kind in redacted
}

# Labels of the upstream; `*` stands for all upstreams, labelled or not.
marked(labels) if "*" in labels

marked(labels) if {
	some word in input.resource.properties.catalog.labels
	word in labels
}

deny contains {
	"code": "detection_not_configured",
	"message": "this pack does not know what to do about secrets and personal data",
	"public": true,
	"remedy": "put secrets_and_personal_data/data.json beside the rules, with `request`, `outside` and `redact`",
} if {
	input.action.name in carrying
	not configured
}

configured if {
	is_string(data.secrets_and_personal_data.request.approvers)
	is_array(data.secrets_and_personal_data.outside)
	is_object(data.secrets_and_personal_data.redact)
}

carrying := {
	"a2a.message.send",
	"a2a.message.stream",
	"a2a.tasks.get",
	"a2a.tasks.subscribe",
	"mcp.prompts.get",
	"mcp.resources.read",
	"mcp.tasks.get",
	"mcp.tools.call",
}

# Look, but do not touch: whatever the registry knows to be harmless may be used, and nothing that may change something.
#
# `risk` and `labels` are set per upstream in interlock.toml. A server's own hint (`readOnlyHint`) is a claim, so it
# is never enough: it only narrows what the label already opened.
package rules.read_only

import future.keywords.not

default allow := false

allow if {
	input.action.name in {
		"mcp.discover",
		"mcp.initialize",
		"mcp.prompts.list",
		"mcp.resources.list",
		"mcp.subscriptions.listen",
		"mcp.templates.list",
		"mcp.tools.list",
	}
	input.subject.id != ""
}

allow if {
	input.action.name in {"mcp.prompts.get", "mcp.resources.read"}
	labelled
}

allow if {
	input.action.name == "mcp.tools.call"
	labelled
	input.resource.properties.hints.readOnlyHint == true
}

labelled if {
	"readonly" in input.resource.properties.catalog.labels
	input.subject.id != ""
}

remedy contains "this gateway is for reading; use a tool of an upstream that is labelled readonly"

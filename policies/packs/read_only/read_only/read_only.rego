# Look, but do not touch: whatever the registry knows to be harmless may be used, and nothing that may change something.
#
# `risk` and `labels` are set per upstream in interlock.toml. A server's own hint (`readOnlyHint`) is a claim, so it
# is never enough: it only narrows what the label already opened. ../README.md has what to edit.
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
	input.subject.id != ""
}

allow if {
	harmless
	input.subject.id != ""
}

# The label is a promise: whoever else allows more, there is only reading where it stands.
deny contains {
	"code": "changes_something",
	"message": "this upstream is for reading only, and the tool does not say that it only reads",
	"public": true,
	"remedy": "use a tool that reads, or have the label readonly taken off the upstream",
} if {
	input.action.name == "mcp.tools.call"
	labelled
	not harmless
}

deny contains {
	"code": "read_only_everywhere",
	"message": "nothing may be changed for now: only what is labelled readonly and says that it only reads may be used",
	"public": true,
	"remedy": "wait until whoever set it takes `everywhere` back (read_only/data.json)",
} if {
	input.action.name in changing
	data.read_only.everywhere == true
	not harmless
}

harmless if {
	input.action.name == "mcp.tools.call"
	labelled
	input.resource.properties.hints.readOnlyHint == true
}

labelled if "readonly" in input.resource.properties.catalog.labels

changing := {
	"a2a.message.send",
	"a2a.message.stream",
	"a2a.push.create",
	"a2a.push.delete",
	"a2a.tasks.cancel",
	"mcp.tasks.update",
	"mcp.tools.call",
	"memory.delete",
	"memory.write",
	"sandbox.exec",
}

remedy contains "this gateway is for reading; use a tool of an upstream that is labelled readonly"

# Who may ask which A2A agent for what, with which content, and through how many other agents.
#
# agents/data.json has it: role -> agent -> kinds of operations, and what messages may bring along. Whose a task is the
# gateway sees to before it asks: a task of somebody else is not found, whatever stands here.
package rules.agents

import future.keywords.not

default allow := false

# Operations by what they do.
kinds := {
	"read": {"a2a.card.read"},
	"ask": {"a2a.message.send", "a2a.message.stream"},
	"follow": {"a2a.tasks.get", "a2a.tasks.list", "a2a.tasks.subscribe"},
	"cancel": {"a2a.tasks.cancel"},
	"push": {"a2a.push.create", "a2a.push.delete", "a2a.push.get", "a2a.push.list"},
}

allow if {
	some kind, actions in kinds
	input.action.name in actions
	kind in granted
}

# The catalogue shows everybody who is somebody the agents that the same person may ask.
allow if {
	input.action.properties.method == "catalog/read"
	input.subject.id != ""
}

granted contains kind if {
	some role in input.subject.properties.roles
	grants := data.agents.roles[role]
	some agent in [input.resource.properties.upstream, "*"]
	some kind in grants[agent]
}

# Content: by the media types that the parts claim, and by where a part that is a URL leads.
deny contains {
	"code": "content_not_agreed",
	"message": "this agent is sent text, JSON and PNG images",
	"public": true,
	"remedy": "send the content as one of these, or leave it out",
} if {
	some media_type in input.resource.properties.media_types
	not media_type in data.agents.media_types
}

deny contains {
	"code": "host_not_listed",
	"message": "the message leads the agent to a host that is not on the list",
	"public": true,
	"remedy": "send the file itself (`raw`)",
} if {
	some host in input.resource.properties.url_hosts
	not host in data.agents.hosts
}

# Push: the address is in a message too, so these ask for it and not for the operation. Where it cannot be read the
# host is empty, and no list has that.
deny contains {
	"code": "receiver_not_listed",
	"message": "notifications are not sent to this host",
	"public": true,
	"remedy": "name a receiver at hooks.example.org, or follow the task",
} if {
	input.resource.properties.push == true
	not input.resource.properties.push_host in data.agents.receivers
}

# Tasks: what an agent began for somebody is for an operator to end.
deny contains {
	"code": "task_of_an_agent",
	"message": "a task that an agent began is ended by an operator",
	"public": true,
} if {
	input.action.name == "a2a.tasks.cancel"
	startswith(input.resource.properties.catalog.task.owner, "agent:")
	not "operator" in input.subject.properties.roles
}

# Delegation, outermost first: an agent acts for a person, and no longer chain than that of two agents is asked.
deny contains {
	"code": "for_nobody",
	"message": "an agent may ask another agent for a person only",
	"public": true,
	"remedy": "hand on the header Interlock-Chain of the call that you answer",
} if {
	input.action.name in kinds.ask
	startswith(input.subject.id, "agent:")
	not for_a_person
}

for_a_person if startswith(input.subject.properties.delegation[0], "user:")

deny contains {
	"code": "too_many_hands",
	"message": "this came through too many agents",
	"public": true,
	"remedy": "answer with what you have",
} if {
	input.action.name in kinds.ask
	count(input.subject.properties.delegation) > 3
}

# What is asked of an agent that is marked as risky is on record, word for word, before it is asked.
obligation contains {"type": "audit", "properties": {"durable": true, "arguments": true}} if {
	input.action.name in kinds.ask
	input.resource.properties.catalog.risk == "high"
}

# Nobody keeps an agent busy for all the others.
obligation contains {"type": "rate", "properties": {"limit": 30, "window_s": 60}} if input.action.name in kinds.ask

remedy contains "ask whoever keeps agents/data.json for the agent" if input.action.properties.protocol == "a2a"

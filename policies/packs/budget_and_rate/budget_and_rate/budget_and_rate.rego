# How often, how much and how large: budgets in money, tokens, calls and seconds, rates for each tool, caller and
# upstream, caps.
#
# Put it beside a package that allows: this one only limits. ../README.md has what to edit.
package rules.budget_and_rate

import future.keywords.not

# One caller on one tool. A role may have more (or less) than everybody; of several roles the most generous counts.
obligation contains {"type": "rate", "properties": {"limit": limit, "window_s": window}} if {
	input.action.name in counted
	count(of_roles) == 0
	{"limit": limit, "window_s": window} := data.budget_and_rate.each
}

obligation contains {"type": "rate", "properties": {"limit": max(limits), "window_s": window}} if {
	input.action.name in counted
	some window in {entry.window_s | some entry in of_roles}
	limits := {entry.limit | some entry in of_roles; entry.window_s == window}
}

of_roles contains entry if {
	some role in input.subject.properties.roles
	entry := data.budget_and_rate.roles[role]
}

# What may be spent: by each subject, tenant, agent, session or tree of calls, as the data says for the action or for
# all of them. The gateway keeps the accounts.
obligation contains {"type": "budget", "properties": entry} if {
	input.action.name in counted
	some actions in [input.action.name, "*"]
	some entry in data.budget_and_rate.budgets[actions]
}

# What a tool costs by itself.
obligation contains {"type": "cost", "properties": data.budget_and_rate.costs[input.resource.id]} if {
	input.action.name == "mcp.tools.call"
}

# When little is left of a budget, what is marked as dear is refused, so that the rest lasts for everything else.
deny contains {
	"code": "budget_nearly_used",
	"message": "little is left of a budget, and this is dear",
	"public": true,
	"remedy": "use something cheaper, or have the budget raised (interlock budgets list)",
} if {
	input.phase == "request"
	input.action.name in counted
	input.context.budget.used >= data.budget_and_rate.spare_from
	"expensive" in input.resource.properties.catalog.labels
}

# One caller on everything: the key makes all its calls share, which is a budget where the window is a day.
obligation contains {"type": "rate", "properties": {
	"limit": data.budget_and_rate.caller.limit,
	"window_s": data.budget_and_rate.caller.window_s,
	"key": concat(":", ["caller", input.subject.id]),
}} if {
	input.action.name in counted
}

# All callers on one upstream: it is spared, whoever is busy.
obligation contains {"type": "rate", "properties": {
	"limit": entry.limit,
	"window_s": entry.window_s,
	"key": concat(":", ["upstream", input.resource.properties.upstream]),
}} if {
	input.action.name in counted
	entry := data.budget_and_rate.upstreams[input.resource.properties.upstream]
}

# One caller on everything of one risk.
obligation contains {"type": "rate", "properties": {
	"limit": entry.limit,
	"window_s": entry.window_s,
	"key": concat(":", ["risk", input.resource.properties.catalog.risk, input.subject.id]),
}} if {
	input.action.name in counted
	entry := data.budget_and_rate.risk[input.resource.properties.catalog.risk]
}

# A number in the arguments is brought down to its most instead of being refused.
obligation contains {"type": "transform", "properties": {"path": concat(".", ["$", name]), "max": most}} if {
	input.action.name == "mcp.tools.call"
	some name, most in data.budget_and_rate.arguments[input.resource.id]
}

# A model's context is not filled by one answer.
obligation contains {"type": "cap", "properties": {"max_bytes": data.budget_and_rate.result_bytes}} if {
	input.action.name == "mcp.tools.call"
}

# What a server has the client's model write is paid by the client.
deny contains {
	"code": "too_many_tokens",
	"message": "the server asks the model for more tokens than it may, or does not say for how many",
	"public": true,
	"remedy": "ask for fewer (maxTokens)",
} if {
	input.action.name == "mcp.sampling.create"
	not modest
}

modest if {
	input.resource.properties.max_tokens >= 0
	input.resource.properties.max_tokens <= data.budget_and_rate.sampling_tokens
}

deny contains {
	"code": "limits_not_configured",
	"message": "this pack does not know what the limits are",
	"public": true,
	"remedy": "put budget_and_rate/data.json beside the rules, with `each`, `caller` and `result_bytes`",
} if {
	input.action.name in counted
	not configured
}

configured if {
	is_object(data.budget_and_rate.budgets)
	is_number(data.budget_and_rate.spare_from)
	is_number(data.budget_and_rate.each.limit)
	is_number(data.budget_and_rate.each.window_s)
	is_number(data.budget_and_rate.caller.limit)
	is_number(data.budget_and_rate.caller.window_s)
	is_number(data.budget_and_rate.result_bytes)
}

counted := {
	"a2a.message.send",
	"a2a.message.stream",
	"mcp.elicitation.create",
	"mcp.prompts.get",
	"mcp.resources.read",
	"mcp.sampling.create",
	"mcp.tools.call",
	"model.call",
	"sandbox.exec",
}

# A policy in the form of OPA's "Agent Tool Calling" page. It knows nothing of this gateway: any harness that asks OPA
# about tool calls can use it unchanged.
package agent_tool_calling

deny contains "the Bash tool is not allowed" if {
	some call in input.tool_calls
	call.tool == "Bash"
}

deny contains reason if {
	some call in input.tool_calls
	call.tool == "WebSearch"
	call.params.num_results > 10
	reason := sprintf("WebSearch: %d results are too many", [call.params.num_results])
}

# Opens the agent that the official kit measures to everybody: the kit asks about the protocol, not about policy.
package rules.conformance

default allow := false

allow if input.resource.properties.upstream == "sut"

"""Every name that leaves in spans and metrics.

`mcp.*` and `gen_ai.*` follow `open-telemetry/semantic-conventions-genai`, pages `docs/gen-ai/mcp.md` at commit
0393513c908bf895e7b3ec480a2c1eb073c584af and `docs/gen-ai/gen-ai-metrics.md` at commit
004902b8cb70aa5ae6ca4ae07132b7daabcd3e10, as read on 2026-11-22. That repository has no release and all of it has the
status "Development", so names change here and nowhere else. The general attributes (`error.type`, `server.*`,
`network.*`, `rpc.*`, `service.*`, `deployment.*`) are those of `open-telemetry/semantic-conventions` v1.42.0.
`interlock.*` is ours. `README.md` beside this file says what each one means.
"""

from __future__ import annotations

from typing import Final

SCOPE: Final = "interlock.gateway"
"""The instrumentation scope of everything that we emit."""
CONVENTIONS: Final = "semantic-conventions-genai@0393513c908b"
"""Version of the scope: which state of the conventions the names follow."""

# Span attributes of the conventions
MCP_METHOD_NAME: Final = "mcp.method.name"
MCP_PROTOCOL_VERSION: Final = "mcp.protocol.version"
MCP_RESOURCE_URI: Final = "mcp.resource.uri"
MCP_SESSION_ID: Final = "mcp.session.id"
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
GEN_AI_PROMPT_NAME: Final = "gen_ai.prompt.name"
GEN_AI_AGENT_ID: Final = "gen_ai.agent.id"
ERROR_TYPE: Final = "error.type"
RPC_RESPONSE_STATUS_CODE: Final = "rpc.response.status_code"
NETWORK_TRANSPORT: Final = "network.transport"
NETWORK_PROTOCOL_NAME: Final = "network.protocol.name"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"

# Resource attributes of the conventions
SERVICE_NAME: Final = "service.name"
SERVICE_VERSION: Final = "service.version"
SERVICE_INSTANCE_ID: Final = "service.instance.id"
DEPLOYMENT_ENVIRONMENT_NAME: Final = "deployment.environment.name"

# Our own span and metric attributes
CALL_ID: Final = "interlock.call.id"
CALL_PARENT_ID: Final = "interlock.call.parent_id"
ACTION: Final = "interlock.action"
OUTCOME: Final = "interlock.outcome"
UPSTREAM: Final = "interlock.upstream"
TENANT: Final = "interlock.tenant"
RESULT_LABELS: Final = "interlock.result.labels"
POLICY_VERDICT: Final = "interlock.policy.verdict"
POLICY_DECISION_ID: Final = "interlock.policy.decision_id"
POLICY_REVISION: Final = "interlock.policy.revision"
POLICY_ENGINE: Final = "interlock.policy.engine"
POLICY_CACHED: Final = "interlock.policy.cached"
POLICY_REASONS: Final = "interlock.policy.reasons"
POLICY_OBLIGATIONS: Final = "interlock.policy.obligations"
POLICY_REASON: Final = "interlock.policy.reason"
POLICY_DIVERGENCE: Final = "interlock.policy.divergence"
BUDGET_WARNINGS: Final = "interlock.budget.warnings"
ROUTE_NAME: Final = "interlock.route.name"
ROUTE_MODEL: Final = "interlock.route.model"
ROUTE_TIER: Final = "interlock.route.tier"
ROUTE_WHY: Final = "interlock.route.why"
ROUTE_TRIES: Final = "interlock.route.tries"
CACHE_HIT: Final = "interlock.cache.hit"
SANDBOX_DRIVER: Final = "interlock.sandbox.driver"
SANDBOX_LEVEL: Final = "interlock.sandbox.level"

# Span names
POLICY_SPAN: Final = "interlock.policy"

# Metrics of the conventions
MCP_SERVER_OPERATION_DURATION: Final = "mcp.server.operation.duration"
MCP_CLIENT_OPERATION_DURATION: Final = "mcp.client.operation.duration"
GEN_AI_EXECUTE_TOOL_DURATION: Final = "gen_ai.execute_tool.duration"

# Our own metrics
CALLS: Final = "interlock.calls"
DENIALS: Final = "interlock.denials"
POLICY_DURATION: Final = "interlock.policy.duration"
POLICY_DECISIONS: Final = "interlock.policy.decisions"
POLICY_SHADOW_COMPARED: Final = "interlock.policy.shadow.compared"
POLICY_SHADOW_DIVERGENCES: Final = "interlock.policy.shadow.divergences"
POLICY_SHADOW_DROPPED: Final = "interlock.policy.shadow.dropped"
POLICY_MONITORED: Final = "interlock.policy.monitored"
RESULT_SIZE: Final = "interlock.result.size"
SERIES_DROPPED: Final = "interlock.metrics.series_dropped"
PROCESS_MEMORY: Final = "process.resident_memory"

# Gauges and counters that the composition root registers
AUDIT_QUEUED: Final = "interlock.audit.queued"
AUDIT_HEALTHY: Final = "interlock.audit.healthy"
AUDIT_REFUSED: Final = "interlock.audit.refused"
UPSTREAM_UP: Final = "interlock.upstream.up"
UPSTREAM_RESTARTS: Final = "interlock.upstream.restarts"
SPANS_DROPPED: Final = "interlock.telemetry.spans_dropped"
EXPORTS_FAILED: Final = "interlock.telemetry.exports_failed"

MCP_BUCKETS_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
GEN_AI_BUCKETS_S: Final = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64),
    *(1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
POLICY_BUCKETS_S: Final = (
    0.00001,
    0.00005,
    0.0001,
    0.0002,
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.05,
    0.1,
    0.5,
    1.0,
    5.0,
)

"""Claims of revision 2026-07-28: requests that carry everything themselves."""

from __future__ import annotations

from typing import Final

from conformance.claims.claim import Chapter, Claim

_HTTP = Chapter("2026-07-28", "basic/transports/streamable-http")
_BASE = Chapter("2026-07-28", "basic/index")
_VERSIONS = Chapter("2026-07-28", "basic/versioning")
_DISCOVER = Chapter("2026-07-28", "server/discover")
_MRTR = Chapter("2026-07-28", "basic/patterns/mrtr")
_CANCEL = Chapter("2026-07-28", "basic/patterns/cancellation")
_PROGRESS = Chapter("2026-07-28", "basic/patterns/progress")
_LISTEN = Chapter("2026-07-28", "basic/patterns/subscriptions")
_STDIO = Chapter("2026-07-28", "basic/transports/stdio")
_TOOLS = Chapter("2026-07-28", "server/tools")
_PROMPTS = Chapter("2026-07-28", "server/prompts")
_RESOURCES = Chapter("2026-07-28", "server/resources")
_CACHING = Chapter("2026-07-28", "server/utilities/caching")
_PAGES = Chapter("2026-07-28", "server/utilities/pagination")
_LOGGING = Chapter("2026-07-28", "server/utilities/logging")
_COMPLETION = Chapter("2026-07-28", "server/utilities/completion")
_AUTH = Chapter("2026-07-28", "basic/authorization/index")
_AUTH_SAFETY = Chapter("2026-07-28", "basic/authorization/security-considerations")

TRANSPORT: Final[tuple[Claim, ...]] = (
    _HTTP.must(
        "origin", "security-endpoint", "A present and invalid Origin is answered 403.", "dns-rebinding-protection"
    ),
    _HTTP.must("host", "security-endpoint", "A Host that is not ours is refused.", "dns-rebinding-protection"),
    _HTTP.should("loopback", "security-endpoint", "Run locally, it binds to loopback only."),
    _HTTP.must("notification-202", "sending-messages", "An accepted notification is answered 202 without a body."),
    _HTTP.must(
        "one-message", "sending-messages", "A body that is not one request or notification is refused with 4xx."
    ),
    _HTTP.must(
        "json-or-sse",
        "sending-messages",
        "A request is answered with one JSON object or with a stream of events.",
        "tools-call-simple-text",
        "tools-call-with-progress",
    ),
    _HTTP.must(
        "concurrent-streams",
        "receiving-messages",
        "Streams of several requests run at once.",
    ),
    _HTTP.must(
        "related-notifications", "receiving-messages", "A response stream carries only what relates to its own request."
    ),
    _HTTP.must(
        "no-server-requests", "receiving-messages", "No request is ever sent to a modern client.", "server-stateless"
    ),
    _HTTP.should("no-buffering", "receiving-messages", "A stream of events carries `X-Accel-Buffering: no`."),
    _HTTP.must(
        "disconnect-cancels", "cancellation", "A client that closes its stream cancels the request, upstream too."
    ),
    _HTTP.must(
        "header-version", "protocol-version-header", "The version header must equal the body's.", "server-stateless"
    ),
    _HTTP.must(
        "unsupported-version",
        "protocol-version-header",
        "An unknown version is answered 400, -32022 and the versions that are supported.",
        "server-stateless",
    ),
    _HTTP.must("unknown-method", "protocol-version-header", "An unknown method is 404 and -32601.", "server-stateless"),
    _HTTP.must(
        "header-mismatch",
        "server-validation",
        "Headers that are missing, malformed or differ from the body are 400 and -32020, before anything is decided.",
        "http-header-validation",
    ),
    _HTTP.must("header-duplicate", "server-validation", "A routing header that comes twice is refused."),
    _HTTP.must(
        "header-case", "case-sensitivity", "Header names in any case, values exactly.", "http-header-validation"
    ),
    _HTTP.must(
        "header-whitespace",
        "case-sensitivity",
        "White space around a header's value is not part of it.",
        "http-header-validation",
    ),
    _HTTP.must(
        "header-base64",
        "value-encoding",
        "The sentinel `=?base64?...?=` is decoded before the comparison.",
        "http-custom-header-server-validation",
    ),
    _HTTP.must(
        "param-headers",
        "server-behavior-for-custom-headers",
        "`Mcp-Param-*` of a tool's annotated arguments must equal the body.",
        "http-custom-header-server-validation",
    ),
    _HTTP.must("param-headers-upstream", "client-behavior", "Upstream, annotated arguments are mirrored into headers."),
    _HTTP.must(
        "invalid-annotation", "custom-headers-from-tool-parameters", "A tool with a bad `x-mcp-header` is not listed."
    ),
    _HTTP.should("old-version-headers", "server-validation", "Routing headers of an older version are not trusted."),
    _HTTP.should("get-delete-405", "earlier-streamable-http-revisions", "GET and DELETE without a session are 405."),
    _HTTP.should(
        "no-session-minted",
        "earlier-streamable-http-revisions",
        "A modern request gets no session id, and one sent is ignored.",
    ),
)

BASE: Final[tuple[Claim, ...]] = (
    _BASE.must("id-not-null", "requests", "A request whose id is null, or no string or integer, is refused."),
    _BASE.must(
        "id-echoed", "responses", "Every answer, errors included, carries the id of its request.", "server-stateless"
    ),
    _BASE.must("result-type", "responses", "Every result has a `resultType`.", "input-required-result-result-type"),
    _BASE.must("result-type-absent", "responses", "An upstream's result without `resultType` counts as complete."),
    _BASE.must("own-error-codes", "error-codes", "Our own codes lie outside the ranges that are reserved."),
    _BASE.must("stateless", "statelessness", "Nothing of one request is needed for the next.", "server-stateless"),
    _BASE.must(
        "meta-required", "_meta", "A request without version or capabilities is 400 and -32602.", "server-stateless"
    ),
    _BASE.must("client-info-optional", "_meta", "A request without `clientInfo` is served.", "server-stateless"),
    _BASE.must(
        "missing-capability",
        "_meta",
        "What needs an undeclared capability is 400 and -32021 with its name.",
        "server-stateless",
    ),
    _BASE.must("meta-kept", "_meta", "Keys of `_meta` that we do not know reach the other side unchanged."),
    _BASE.must("trace-context", "_meta", "`traceparent` in `_meta` goes on, with our span, in the W3C format."),
    _BASE.must(
        "schema-2020-12",
        "json-schema-usage",
        "All keywords of a tool's schema reach the client.",
        "json-schema-2020-12",
    ),
    _BASE.must("no-network-ref", "ref-resolution", "A `$ref` to the network is never fetched."),
    _BASE.must("unknown-fields", "general-fields", "Fields that we do not know reach the other side unchanged."),
    _VERSIONS.must(
        "negotiation",
        "protocol-version-negotiation",
        "A version we do not speak is named with those we do.",
        "server-stateless",
    ),
    _VERSIONS.must(
        "initialize-refused",
        "protocol-version-negotiation",
        "`initialize` with a modern envelope is an unknown method.",
        "server-stateless",
    ),
    _VERSIONS.must(
        "era-detection",
        "backward-compatibility-with-initialization-based-versions",
        "An upstream's era is found out, HTTP and stdio, and remembered.",
    ),
    _DISCOVER.must("discover", "", "`server/discover` answers versions and capabilities.", "server-stateless"),
    _DISCOVER.should("discover-identity", "discoverresult", "`server/discover` says who answers.", "server-stateless"),
    _DISCOVER.must(
        "discover-union", "discoverresult", "The merged endpoint declares what its upstreams together can do."
    ),
)

PATTERNS: Final[tuple[Claim, ...]] = (
    _MRTR.must(
        "mrtr-elicitation",
        "basic-workflow",
        "A question to the user travels as `input_required`.",
        "input-required-result-basic-elicitation",
    ),
    _MRTR.must(
        "mrtr-sampling",
        "basic-workflow",
        "A question to the model travels as `input_required`.",
        "input-required-result-basic-sampling",
    ),
    _MRTR.must(
        "mrtr-roots",
        "basic-workflow",
        "A question for roots travels as `input_required`.",
        "input-required-result-basic-list-roots",
    ),
    _MRTR.must(
        "mrtr-several",
        "basic-workflow",
        "Several questions at once, each answered.",
        "input-required-result-multiple-input-requests",
    ),
    _MRTR.must(
        "mrtr-rounds", "basic-workflow", "Several rounds, one after the other.", "input-required-result-multi-round"
    ),
    _MRTR.must(
        "mrtr-state",
        "server-requirements-basic-workflow",
        "`requestState` comes back to who made it.",
        "input-required-result-request-state",
    ),
    _MRTR.must(
        "mrtr-tampered",
        "server-requirements-basic-workflow",
        "State that was changed is refused.",
        "input-required-result-tampered-state",
    ),
    _MRTR.should(
        "mrtr-bound", "server-requirements-basic-workflow", "Our state is bound to principal, request and time."
    ),
    _MRTR.must("mrtr-reauthorized", "server-requirements-basic-workflow", "Each retry is decided by policy anew."),
    _MRTR.must(
        "mrtr-declared",
        "server-requirements-basic-workflow",
        "Only what the client declared is asked.",
        "input-required-result-capability-check",
    ),
    _MRTR.must(
        "mrtr-methods",
        "supported-requests",
        "Only tools/call, prompts/get and resources/read ask.",
        "input-required-result-unsupported-methods",
        "input-required-result-non-tool-request",
    ),
    _MRTR.should(
        "mrtr-missing",
        "error-handling",
        "A missing answer is asked for again.",
        "input-required-result-missing-input-response",
    ),
    _MRTR.should(
        "mrtr-extra",
        "error-handling",
        "Answers that nobody asked for are ignored.",
        "input-required-result-ignore-extra-params",
    ),
    _MRTR.should(
        "mrtr-invalid",
        "error-handling",
        "Answers of a wrong shape are refused.",
        "input-required-result-validate-input",
    ),
    _CANCEL.should(
        "timeouts", "timeouts", "Every request to an upstream has a deadline, and its passing cancels the request."
    ),
    _CANCEL.should("timeout-absolute", "timeouts", "Progress does not put off the absolute deadline."),
    _CANCEL.should("cancel-unknown", "error-handling", "A cancellation of something unknown is ignored."),
    _PROGRESS.must(
        "progress", "progress-flow", "Progress reaches the client under its own token.", "tools-call-with-progress"
    ),
    _PROGRESS.must(
        "progress-own-token",
        "behavior-requirements",
        "Tokens are of one hop: two clients with the same token do not mix.",
    ),
    _PROGRESS.must("progress-ends", "behavior-requirements", "After the result there is no more progress."),
    _LISTEN.must("listen-ack", "acknowledgment", "The acknowledgement comes first on the stream.", "server-stateless"),
    _LISTEN.must("listen-filter", "opening-a-stream", "Only what was asked for is sent.", "server-stateless"),
    _LISTEN.must(
        "listen-tagged", "receiving-notifications", "Every message carries the subscription's id.", "server-stateless"
    ),
    _LISTEN.should(
        "listen-list-changed",
        "receiving-notifications",
        "A changed list of an upstream is announced.",
    ),
    _LISTEN.should(
        "listen-resource", "receiving-notifications", "An updated resource that was asked for is announced."
    ),
    _LISTEN.should("listen-closed", "graceful-closure", "When the gateway ends, streams end with a result."),
    _STDIO.must("stdio-one-line", "", "A message to a stdio upstream is one line."),
    _STDIO.must(
        "stdio-cancel", "cancellation", "A cancelled request is cancelled at the stdio upstream by notification."
    ),
    _STDIO.should(
        "stdio-shutdown",
        "shutdown",
        "A stdio upstream is ended by closing its input, then by signals, with its whole tree.",
    ),
    _STDIO.should(
        "stdio-restart", "unexpected-termination", "A stdio upstream that ended is started again, with backoff."
    ),
    _STDIO.must("stdio-probe", "backward-compatibility", "Any error to the probe, or silence, means the legacy era."),
)

FEATURES: Final[tuple[Claim, ...]] = (
    _TOOLS.must("tools-list", "listing-tools", "Tools are listed.", "tools-list"),
    _TOOLS.must(
        "tools-call",
        "calling-tools",
        "Every kind of content passes.",
        "tools-call-simple-text",
        "tools-call-image",
        "tools-call-audio",
        "tools-call-embedded-resource",
        "tools-call-mixed-content",
    ),
    _TOOLS.must("tools-error", "error-handling", "A tool's failure reaches the model as a result.", "tools-call-error"),
    _TOOLS.must("tools-unknown", "error-handling", "An unknown tool and a hidden one get the same error."),
    _TOOLS.must(
        "tools-by-caller",
        "capabilities",
        "A list varies by who asks, never by connection, and shows what may be called.",
    ),
    _TOOLS.should("tools-order", "capabilities", "The order of a list is always the same."),
    _TOOLS.should(
        "tools-collision", "tool-names", "Equal names of two upstreams are told apart by the configured name."
    ),
    _TOOLS.should("tool-names", "tool-names", "Names that we make are within 64 of the allowed characters."),
    _TOOLS.must("structured-content", "structured-content", "Structured content of any JSON type passes unchanged."),
    _PROMPTS.must("prompts-list", "listing-prompts", "Prompts are listed.", "prompts-list"),
    _PROMPTS.must(
        "prompts-get",
        "getting-a-prompt",
        "Prompts with arguments, resources and images pass.",
        "prompts-get-simple",
        "prompts-get-with-args",
        "prompts-get-embedded-resource",
        "prompts-get-with-image",
    ),
    _RESOURCES.must("resources-list", "listing-resources", "Resources are listed.", "resources-list"),
    _RESOURCES.must(
        "resources-read",
        "reading-resources",
        "Text and binary resources are read.",
        "resources-read-text",
        "resources-read-binary",
    ),
    _RESOURCES.must(
        "resources-template", "resource-templates", "A resource of a template is read.", "resources-templates-read"
    ),
    _RESOURCES.must(
        "resource-not-found",
        "error-handling",
        "A resource that does not exist is -32602.",
        "sep-2164-resource-not-found",
    ),
    _COMPLETION.must("completion", "requesting-completions", "Arguments are completed.", "completion-complete"),
    _CACHING.must("caching", "cacheable-results", "Lists and reads say how long they hold, and for whom.", "caching"),
    _CACHING.must(
        "caching-private",
        "cache-scope-field",
        "A list that policy filtered is private, and what is private is never shared.",
    ),
    _CACHING.must("caching-pages", "interaction-with-pagination", "All pages of a list have one scope."),
    _PAGES.must("cursors", "pagination-model", "All pages of an upstream are listed; cursors are opaque and sealed."),
    _PAGES.should("cursor-invalid", "error-handling", "A cursor that we did not make is -32602."),
    _LOGGING.must(
        "log-level", "per-request-log-level", "No log message without a level in the request.", "server-stateless"
    ),
    _AUTH.must("auth-metadata", "authorization-server-discovery", "Protected-resource metadata is served (RFC 9728)."),
    _AUTH.must("auth-401", "token-handling", "A missing or invalid token is 401 with a challenge."),
    _AUTH.should(
        "auth-403", "runtime-insufficient-scope-errors", "A missing scope is 403 with the scope in the challenge."
    ),
    _AUTH_SAFETY.must(
        "auth-audience", "access-token-privilege-restriction", "A token for another audience is refused."
    ),
    _AUTH_SAFETY.must(
        "auth-no-passthrough", "access-token-privilege-restriction", "The client's token never reaches an upstream."
    ),
)

MODERN: Final = (*TRANSPORT, *BASE, *PATTERNS, *FEATURES)

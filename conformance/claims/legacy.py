"""Claims of revision 2025-11-25 and of those before it: sessions that begin with `initialize`."""

from __future__ import annotations

from typing import Final

from conformance.claims.claim import Chapter, Claim

_HTTP = Chapter("2025-11-25", "basic/transports")
_LIFE = Chapter("2025-11-25", "basic/lifecycle")
_BASE = Chapter("2025-11-25", "basic/index")
_CANCEL = Chapter("2025-11-25", "basic/utilities/cancellation")
_PROGRESS = Chapter("2025-11-25", "basic/utilities/progress")
_PING = Chapter("2025-11-25", "basic/utilities/ping")
_TOOLS = Chapter("2025-11-25", "server/tools")
_PROMPTS = Chapter("2025-11-25", "server/prompts")
_RESOURCES = Chapter("2025-11-25", "server/resources")
_LOGGING = Chapter("2025-11-25", "server/utilities/logging")
_COMPLETION = Chapter("2025-11-25", "server/utilities/completion")
_PAGES = Chapter("2025-11-25", "server/utilities/pagination")
_ELICIT = Chapter("2025-11-25", "client/elicitation")
_SAMPLE = Chapter("2025-11-25", "client/sampling")
_ROOTS = Chapter("2025-11-25", "client/roots")

LEGACY: Final[tuple[Claim, ...]] = (
    _LIFE.must("initialize", "initialization", "A session begins with `initialize`.", "server-initialize"),
    _LIFE.must(
        "version-same", "version-negotiation", "A version that we speak, from 2024-11-05 on, is answered with itself."
    ),
    _LIFE.must("version-other", "version-negotiation", "Any other version is answered with the latest of this era."),
    _LIFE.must("capabilities", "capability-negotiation", "Only what both sides declared is used."),
    _BASE.must("no-batch", "messages", "A batch is refused."),
    _HTTP.must(
        "origin", "security-warning", "A present and invalid Origin is answered 403.", "dns-rebinding-protection"
    ),
    _HTTP.must(
        "notification-202", "sending-messages-to-the-server", "Notifications and answers are accepted with 202."
    ),
    _HTTP.must(
        "concurrent-streams",
        "multiple-connections",
        "Several streams at once, each message on one of them.",
    ),
    _HTTP.should(
        "disconnect-is-no-cancel", "sending-messages-to-the-server", "A broken stream does not cancel the request."
    ),
    _HTTP.must(
        "get-stream", "listening-for-messages-from-the-server", "GET opens a stream for what belongs to no request."
    ),
    _HTTP.should("polling", "sending-messages-to-the-server", "A stream can be left and taken up again."),
    _HTTP.should("session-id", "session-management", "Session ids cannot be guessed and hold visible ASCII only."),
    _HTTP.must(
        "session-ended", "session-management", "DELETE ends a session; after it, 404.", "server-session-lifecycle"
    ),
    _HTTP.should("session-missing", "session-management", "A request without the session it needs is 400."),
    _HTTP.must("session-bound", "session-management", "A session serves only the principal that began it."),
    _HTTP.must("version-header", "protocol-version-header", "A version header that we do not know is 400."),
    _CANCEL.should("cancel", "behavior-requirements", "A cancelled request is cancelled upstream and gets no answer."),
    _CANCEL.should("cancel-unknown", "error-handling", "A cancellation of something unknown is ignored."),
    _PROGRESS.must(
        "progress", "progress-flow", "Progress reaches the client under its own token.", "tools-call-with-progress"
    ),
    _PING.must("ping", "behavior-requirements", "A ping is answered at once, in both directions.", "ping"),
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
    _TOOLS.should(
        "tools-changed", "list-changed-notification", "A changed list of an upstream is announced to live sessions."
    ),
    _TOOLS.must("schema-2020-12", "tool", "All keywords of a tool's schema reach the client.", "json-schema-2020-12"),
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
        "Text, binary and template resources are read.",
        "resources-read-text",
        "resources-read-binary",
        "resources-templates-read",
    ),
    _RESOURCES.must(
        "subscribe",
        "subscriptions",
        "Resources are subscribed to and left.",
        "resources-subscribe",
        "resources-unsubscribe",
    ),
    _RESOURCES.must("updated", "subscriptions", "An update reaches the sessions that subscribed, and no other."),
    _LOGGING.must("set-level", "setting-log-level", "The level is set for one session.", "logging-set-level"),
    _LOGGING.must(
        "log-messages",
        "log-message-notifications",
        "Log messages reach the session whose call made them.",
        "tools-call-with-logging",
    ),
    _COMPLETION.must("completion", "requesting-completions", "Arguments are completed.", "completion-complete"),
    _PAGES.must("cursors", "pagination-model", "All pages of an upstream are listed; cursors are opaque and sealed."),
    _ELICIT.must(
        "elicitation",
        "elicitation-requests",
        "A question reaches the client whose call made it, and no other.",
        "tools-call-elicitation",
    ),
    _ELICIT.must(
        "elicitation-defaults", "requested-schema", "Defaults of a form pass.", "elicitation-sep1034-defaults"
    ),
    _ELICIT.must(
        "elicitation-enums", "requested-schema", "All kinds of enumeration pass.", "elicitation-sep1330-enums"
    ),
    _SAMPLE.must(
        "sampling",
        "creating-messages",
        "A question to the model reaches the client whose call made it.",
        "tools-call-sampling",
    ),
    _ROOTS.must("roots", "listing-roots", "A question for roots reaches the client whose call made it."),
)

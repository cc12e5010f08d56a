"""The model APIs (Chat Completions, Responses, Messages, Embeddings): each as its clients know it, and into the others.

Pure: bytes and JSON in, bytes and JSON out. Nothing here opens a connection or knows a vendor's library.
"""

from gateway.models.errors import (
    ErrorAnswer,
    ProviderRefused,
    error_answer,
    error_body,
    error_event,
    provider_failure,
    told_by_provider,
)
from gateway.models.estimate import Estimate, estimate, text_tokens
from gateway.models.facts import facts_of, last_user_text, tool_names, turns, with_model
from gateway.models.limits import capped, check_limits, check_reach
from gateway.models.naming import Alias, Pinned, parse_name
from gateway.models.neutral import APIS, TALKS, Answer, Api, Request, Talk, Tokens
from gateway.models.pricing import Price, price_facts, price_from, usage_of
from gateway.models.replay import as_stream
from gateway.models.services import service_in, service_of
from gateway.models.sse import framed, last_frame
from gateway.models.streams import ModelStream
from gateway.models.translate import answer_for, read_answer, request_for, request_in, tokens_in, write_answer

__all__ = [
    "APIS",
    "TALKS",
    "Alias",
    "Answer",
    "Api",
    "ErrorAnswer",
    "Estimate",
    "ModelStream",
    "Pinned",
    "Price",
    "ProviderRefused",
    "Request",
    "Talk",
    "Tokens",
    "answer_for",
    "as_stream",
    "capped",
    "check_limits",
    "check_reach",
    "error_answer",
    "error_body",
    "error_event",
    "estimate",
    "facts_of",
    "framed",
    "last_frame",
    "last_user_text",
    "parse_name",
    "price_facts",
    "price_from",
    "provider_failure",
    "read_answer",
    "request_for",
    "request_in",
    "service_in",
    "service_of",
    "text_tokens",
    "tokens_in",
    "told_by_provider",
    "tool_names",
    "turns",
    "usage_of",
    "with_model",
    "write_answer",
]

"""Speaking A2A 0.3 with peers that know no other: pure functions from JSON values of one version to the other's.

`*_from_03` go up to 1.0, `*_to_03` go down. Requests are read strictly both ways. Everything else keeps the members it
does not know, unless they bear a name that has a meaning in the other version. `NotConvertible` is all that is raised.
"""

from gateway.a2a.v03_cards import card_from_03, card_to_dual, is_legacy
from gateway.a2a.v03_requests import METHODS, UnknownMethod, request_from_03, request_to_03
from gateway.a2a.v03_results import (
    error_from_03,
    error_to_03,
    event_from_03,
    event_to_03,
    result_from_03,
    result_to_03,
)
from gateway.a2a.v03_shapes import NotConvertible

__all__ = [
    "METHODS",
    "NotConvertible",
    "UnknownMethod",
    "card_from_03",
    "card_to_dual",
    "error_from_03",
    "error_to_03",
    "event_from_03",
    "event_to_03",
    "is_legacy",
    "request_from_03",
    "request_to_03",
    "result_from_03",
    "result_to_03",
]

"""Detectors of what texts should not hold; all of them together: `all_detectors`."""

from __future__ import annotations

from adapters.detectors.personal import PersonalData
from adapters.detectors.secrets import Secrets
from adapters.detectors.telephones import is_number
from gateway.ports import Detector


def all_detectors() -> tuple[Detector, ...]:
    """One for each kind that rules may ask for. Loading the numbering plans takes a fifth of a second."""
    is_number("")  # now, and not in the middle of a call
    return Secrets(), PersonalData()

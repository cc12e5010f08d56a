"""What a policy would do that decides nothing: answers compared, findings counted, both kept for people to read.

It sees answers after the fact. Nothing in it can change a decision; who asks, and where, is `gateway.app.shadow`.
"""

from __future__ import annotations

from gateway.shadow.comparing import FAULT, compared, compared_lists, newly_allowed, verdict_of
from gateway.shadow.records import Comparison, Monitoring, Report, read_report, write_report
from gateway.shadow.tally import Row, Tally

__all__ = [
    "FAULT",
    "Comparison",
    "Monitoring",
    "Report",
    "Row",
    "Tally",
    "compared",
    "compared_lists",
    "newly_allowed",
    "read_report",
    "verdict_of",
    "write_report",
]

"""The requirement manifest and the evidence for it agree, both ways."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from conformance.gaps import GAPS
from conformance.requirements import CLAIMS, REQUIREMENTS, marked_in, without_evidence
from conformance.scenarios import SCENARIOS
from conformance.verdict import BRIDGE, read_expected

ID = re.compile(r"mcp:(2025-11-25|2026-07-28):[a-z0-9-]+")
SECTION = re.compile(r"(basic|server|client)/[a-z/-]+(#[a-z0-9_-]+)?")


def test_every_claim_has_evidence_or_is_a_known_gap() -> None:
    missing = [claim for claim in without_evidence(marked_in()) if claim not in GAPS]

    assert not missing, f"mark a test with @pytest.mark.requirement, or say in conformance/gaps.py why not: {missing}"


def test_every_gap_is_a_claim_without_evidence_and_has_a_reason() -> None:
    missing = without_evidence(marked_in())

    assert not [gap for gap in GAPS if gap not in REQUIREMENTS], "a gap names no claim"
    assert not [gap for gap in GAPS if gap not in missing], "these have evidence now: remove them from GAPS"
    assert all(reason.strip() for reason in GAPS.values())


def test_every_marked_id_is_in_the_manifest() -> None:
    unknown = {requirement: places for requirement, places in marked_in().items() if requirement not in REQUIREMENTS}

    assert not unknown


def test_ids_are_unique_and_name_their_revision() -> None:
    counted = Counter(claim.id for claim in CLAIMS)

    assert [claim for claim, times in counted.items() if times > 1] == []
    assert [claim.id for claim in CLAIMS if not ID.fullmatch(claim.id) or claim.revision not in claim.id] == []


def test_every_claim_says_where_it_is_written_and_what_it_is() -> None:
    assert [claim.id for claim in CLAIMS if not SECTION.fullmatch(claim.section)] == []
    assert [claim.id for claim in CLAIMS if not claim.text.endswith(".")] == []


def test_scenarios_that_are_evidence_belong_to_the_set_of_that_revision() -> None:
    strange = [
        (claim.id, name) for claim in CLAIMS for name in claim.scenarios if name not in SCENARIOS[claim.revision]
    ]

    assert strange == []


def test_scenarios_that_are_expected_to_fail_are_no_evidence() -> None:
    failing = {(entry.requirements, entry.scenario) for entry in read_expected() if not entry.target.startswith(BRIDGE)}

    relied_on = {(claim.revision, name) for claim in CLAIMS for name in claim.scenarios}

    assert relied_on & failing == set()


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
def test_each_revision_has_claims(revision: str) -> None:
    assert sum(claim.revision == revision for claim in CLAIMS) >= 30

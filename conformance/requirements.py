"""The requirement manifest: every protocol claim, where it is written, and what shows that it is kept.

Evidence is a test marked `@pytest.mark.requirement("<id>")`, or an official scenario that runs against the gateway.
A claim without evidence is a gap, and stands in `GAPS` with its reason; `tests/conformance/test_manifest.py` checks
all of this both ways. `python -m conformance.requirements` prints the state.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from conformance.claims.bridging import BRIDGING
from conformance.claims.claim import Claim
from conformance.claims.legacy import LEGACY
from conformance.claims.modern import MODERN
from conformance.gaps import GAPS

CLAIMS: Final[tuple[Claim, ...]] = (*MODERN, *LEGACY, *BRIDGING)
REQUIREMENTS: Final[Mapping[str, Claim]] = MappingProxyType({claim.id: claim for claim in CLAIMS})
TESTS: Final = Path(__file__).resolve().parent.parent / "tests"


def marked_in(folder: Path = TESTS) -> dict[str, list[str]]:
    """The ids that tests carry, each with the places; found by reading the sources, so nothing is imported."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        for requirement, line in _marks(ast.parse(path.read_text(), str(path))):
            found.setdefault(requirement, []).append(f"{path.relative_to(folder.parent)}:{line}")
    return found


def _marks(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "requirement":
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value, node.lineno


def without_evidence(marked: Mapping[str, object]) -> list[str]:
    """The ids that neither a test nor a scenario bears out."""
    return [claim.id for claim in CLAIMS if not claim.scenarios and claim.id not in marked]


def main() -> None:
    """Print every claim with its evidence."""
    marked = marked_in()
    for claim in CLAIMS:
        evidence = ", ".join([*claim.scenarios, *marked.get(claim.id, [])]) or f"GAP: {GAPS.get(claim.id, 'unknown')}"
        print(f"{claim.id}\n    {claim.level} {claim.section}: {claim.text}\n    {evidence}")
    missing = without_evidence(marked)
    print(f"{len(CLAIMS)} claims, {len(CLAIMS) - len(missing)} with evidence, {len(missing)} gaps")


if __name__ == "__main__":
    main()

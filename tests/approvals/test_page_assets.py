"""What the pages are dressed with: it can be read, it is shipped, and nothing of it comes from elsewhere."""

from __future__ import annotations

import re
from typing import Final

import pytest

from gateway.listeners.approvals.page_layout import ASSETS, TYPES, asset

CSS: Final = (ASSETS / "page.css").read_text()
PAIRS: Final = [
    ("ink", "paper"), ("ink", "card"), ("ink", "tint"), ("ink", "alarm"), ("soft", "paper"), ("soft", "card"),
    ("accent", "paper"), ("accent", "card"), ("on", "accent"), ("good", "card"), ("good", "paper"), ("bad", "card"),
    ("bad", "paper"), ("bad", "alarm"), ("warn", "card"), ("warn", "paper"),
]  # fmt: skip


def colours(scheme: int) -> dict[str, str]:
    block = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)[scheme]
    return {name: value if len(value) == 6 else value[0] * 2 + value[1] * 2 + value[2] * 2
            for name, value in re.findall(r"--(\w+): #([0-9a-f]+)", block)}  # fmt: skip


def luminance(colour: str) -> float:
    """WCAG 2.2, "relative luminance"."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("front", "back"), PAIRS)
def test_text_stands_out_from_what_is_behind_it(scheme: int, front: str, back: str) -> None:
    said = colours(scheme)

    lighter, darker = sorted((luminance(said[front]), luminance(said[back])), reverse=True)

    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_files_are_those_that_are_served_and_small() -> None:
    assert {each.name for each in ASSETS.iterdir()} == set(TYPES)
    assert all(asset(name) is not None and (ASSETS / name).stat().st_size < 12_000 for name in TYPES)
    assert asset("../page.py") is None


def test_nothing_is_fetched_from_elsewhere_or_made_from_text() -> None:
    scripts = (ASSETS / "page.js").read_text()

    assert not re.search(r"url\(|@import|https?:", CSS)
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|https?:", scripts)

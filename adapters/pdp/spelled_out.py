"""The library with the teams' packages written out, for the embedded engine: the same answers, at half the cost.

`data.rules[_].deny` makes that engine evaluate every rule of every package, whatever it is called;
`data.rules.payments.deny` only what it names. So where a bundle uses the shipped library and its packages are plain to
see, the few rules of the library that ask all packages are replaced by one for each, and the answer that nearly every
call gets (allowed, nothing held or denied, no obligation, no label) is tried first, in one body: each rule that is
looked up costs that engine as much as five comparisons. Anything out of the ordinary leaves the library as it is.
The parity suite holds the result against OPA, which gets the library as written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Final

from adapters.pdp.bundle import Bundle
from gateway import codec

LIBRARY: Final = "interlock"
_PACKAGE: Final = re.compile(r"^[ \t]*package[ \t]+([^\s#]+)[ \t]*(?:#.*)?$", re.MULTILINE)
_WORD: Final = re.compile(r"^\s*package\b", re.MULTILINE)
_TEAM: Final = re.compile(r"rules\.([A-Za-z_][A-Za-z0-9_]*)")

_DECISION: Final = (
    'decision := {"decision": true, "context": {"obligations": obligations, "labels": labels}} if {\n\tpermitted\n}'
)
_ALLOWED: Final = "allowed if data.rules[_].allow == true\n"
_DENYING: Final = "denying if {\n\tfound := data.rules[_].deny\n\tnot found in nothing\n}\n"
_HOLDING: Final = "holding if {\n\tfound := data.rules[_].hold\n\tnot found in nothing\n\tnot agreed(found)\n}\n"
_OBLIGATIONS: Final = "obligations := [entry | some entry in entries(data.rules[_].obligation)]\n"
_LABELS: Final = "labels := [entry | some entry in entries(data.rules[_].label)]\n"
_LISTED: Final = "listed if {\n\tdata.rules[_].allow == true\n} else if {\n\tdata.rules[_].list_allow == true\n}\n"
_A_WORD: Final = re.compile(r"\w+")
_SILENT: Final = ("deny", "hold", "obligation", "label")


def spelled_out(bundle: Bundle) -> tuple[tuple[str, str], ...]:
    """The modules to give the embedded engine: those of `bundle`, the library's rules for all packages written out."""
    packages = {path: _package_of(text) for path, text in bundle.modules}
    teams = _teams(packages.values())
    words = {team: _words(text for path, text in bundle.modules if packages[path] == f"rules.{team}") for team in teams}
    homes = [path for path, package in packages.items() if package == LIBRARY]
    data = codec.loads(bundle.data)
    if not teams or len(homes) != 1 or not isinstance(data, dict) or "rules" in data:
        return bundle.modules
    library = _written_out(dict(bundle.modules)[homes[0]], teams, words)
    return tuple((path, library if path == homes[0] else text) for path, text in bundle.modules)


def _package_of(text: str) -> str:
    """The package of a module; empty when that is not beyond doubt."""
    found = _PACKAGE.findall(text)
    return found[0] if len(found) == 1 and len(_WORD.findall(text)) == 1 else ""


def _teams(packages: Iterable[str]) -> list[str]:
    """The names below `rules`, in the order in which engines visit them; none when one of them is in doubt."""
    teams: set[str] = set()
    for package in packages:
        if not package or package == "rules" or package.startswith("rules["):
            return []
        if package.startswith("rules."):
            match = _TEAM.fullmatch(package)
            if match is None:
                return []
            teams.add(match[1])
    return sorted(teams)


def _words(texts: Iterable[str]) -> frozenset[str]:
    """Every word of a package, comments and all: what is not among them is no rule of it."""
    return frozenset(word for text in texts for word in _A_WORD.findall(text))


def _written_out(text: str, teams: list[str], words: Mapping[str, frozenset[str]]) -> str:
    """The library's text; unchanged unless every rule that is to be replaced stands in it exactly once."""
    replacements = {
        _DECISION: _plainly_permitted(teams, words) + _DECISION.removeprefix("decision"),
        _ALLOWED: _each(teams, lambda team: _ALLOWED.replace("[_]", f".{team}")),
        _DENYING: _each(teams, lambda team: _DENYING.replace("[_]", f".{team}")),
        _HOLDING: _each(teams, lambda team: _HOLDING.replace("[_]", f".{team}")),
        _OBLIGATIONS: f"obligations := {_joined(teams, 'obligation')}\n",
        _LABELS: f"labels := {_joined(teams, 'label')}\n",
        _LISTED: _each(teams, lambda team: f"listed if data.rules.{team}.allow == true\n")
        + _each(teams, lambda team: f"listed if data.rules.{team}.list_allow == true\n"),
    }
    if any(text.count(old) != 1 for old in replacements):
        return text
    return reduce(lambda done, pair: done.replace(*pair), replacements.items(), text)


def _plainly_permitted(teams: list[str], words: Mapping[str, frozenset[str]]) -> str:
    """The head of the chain: what it says yes to, the next link says yes to as well, and no rule is asked out of turn.

    `not X != set()` holds where X is undefined or the empty set. A team that says nothing in another way (`false`,
    `[]`) is left to the library.
    """
    allowed = f"data.rules.{teams[0]}.allow == true" if len(teams) == 1 else "allowed"
    nothing = {
        name: [f"not data.rules.{team}.{name} != set()" for team in teams if name in words[team]] for name in _SILENT
    }
    whole = "not input.resource.properties.truncated"
    lines = [allowed, *nothing["deny"], *nothing["hold"], whole, *nothing["obligation"], *nothing["label"]]
    body = "".join(f"\t{line}\n" for line in lines)
    return f'decision := {{"decision": true, "context": {{"obligations": [], "labels": []}}}} if {{\n{body}}} else'


def _each(teams: list[str], rule: Callable[[str], str]) -> str:
    return "".join(rule(team) for team in teams)


def _joined(teams: list[str], name: str) -> str:
    parts = [f"[entry | some entry in entries(data.rules.{team}.{name})]" for team in teams]
    return reduce(lambda left, right: f"array.concat({left}, {right})", parts)

"""Leaves out of a policy what no decision reads, before an engine decides by it.

The embedded engine evaluates every rule of a team's package as soon as it explains a denial. A `monitor` rule, or one
that nobody uses any more, could so stall or fail a call that it has no say in.
"""

from __future__ import annotations

from dataclasses import replace

from adapters.pdp.bundle import Bundle, Source
from adapters.pdp.engine import EngineFailure
from adapters.pdp.rules import Program, Rule
from adapters.pdp.syntax import modules_in
from adapters.pdp.trial import TrialEngine

_ENTRYPOINTS = (("interlock", "decision"), ("interlock", "visible"))
_TEAMS = "rules"


def without_unread(bundle: Bundle, program: Program) -> Bundle:
    """The same policy, revision included, without the teams' rules that no entry point may read.

    `program` is the analysis of `bundle`. Where the rest would not be just that, the policy stays as it is.
    """
    read = {id(rule) for entrypoint in _ENTRYPOINTS for rule in program.closure(entrypoint)}
    unread = [rule for rule in program.rules if id(rule) not in read and _is_teams(rule)]
    if not unread:
        return bundle
    left = replace(bundle, files=tuple(_without(file, program, unread) for file in bundle.files))
    kept = [rule for rule in program.rules if not any(rule is each for each in unread)]
    return left if _rules_of(left) == [(rule.file, rule.name, rule.node.line) for rule in kept] else bundle


def _is_teams(rule: Rule) -> bool:
    """Whether it is a rule of a team's; functions are not evaluated unless somebody calls them."""
    return rule.module.package[:1] == (_TEAMS,) and rule.arity is None


def _without(file: Source, program: Program, unread: list[Rule]) -> Source:
    """The file with blanks for these rules, so that every other one stays on its line."""
    starts = sorted(rule.node.start for rule in program.rules if rule.file == file.path)
    source = bytearray(file.text.encode())
    for rule in unread:
        if rule.file == file.path:
            start = rule.node.start
            end = next((each for each in starts if each > start), len(source))
            source[start:end] = bytes(letter if letter == ord("\n") else ord(" ") for letter in source[start:end])
    return replace(file, text=source.decode())


def _rules_of(bundle: Bundle) -> list[tuple[str, str, int]]:
    """File, name and line of every rule; none where the engine cannot read them."""
    try:
        with TrialEngine(replace(bundle, tests=())) as engine:
            found = Program(modules_in(engine.tree())).rules
    except EngineFailure:
        return []
    return [(rule.file, rule.name, rule.node.line) for rule in found]

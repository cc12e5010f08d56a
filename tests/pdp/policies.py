"""Small policies for tests."""

from __future__ import annotations

from collections.abc import Mapping

from adapters.pdp.bundle import Bundle, bundle_of
from adapters.pdp.rules import Program
from adapters.pdp.syntax import modules_in
from adapters.pdp.trial import TrialEngine

LIBRARY = """
package interlock

default decision := {"decision": false, "context": {"reasons": []}}

decision := {"decision": true, "context": {}} if {
	data.rules[_].allow == true
	not denied
}

denied if {
	some reason in data.rules[_].deny
}

visible contains index if {
	some index, candidate in input.resource.properties.candidates
	decision.decision == true with input.resource as candidate
}
"""


def composed(rules: str, data: Mapping[str, object] | None = None, *, package: str = "rules.team") -> Bundle:
    """The library and one module of a team."""
    return bundle_of({"lib.rego": LIBRARY, "team.rego": f"package {package}\n\n{rules}\n"}, data)


def alone(module: str, data: Mapping[str, object] | None = None) -> Bundle:
    """One module that is the whole policy, with a `visible` that shows nothing if it has none."""
    more = "" if "visible" in module else "\nvisible := []\n"
    return bundle_of({"policy.rego": f"package interlock\n\n{module}\n{more}"}, data)


def program_of(bundle: Bundle) -> Program:
    """The analysed program of a bundle that parses."""
    with TrialEngine(bundle) as engine:
        return Program(modules_in(engine.tree()))

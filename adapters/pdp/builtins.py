"""Which built-in functions a policy may call, so that it means the same on the embedded engine and on OPA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from adapters.pdp.extensions import EXTENSIONS

_EMBEDDED: Final = """
abs/1 array.concat/2 array.reverse/1 array.slice/3 base64.decode/1 base64.encode/1 base64.is_valid/1
base64url.decode/1 base64url.encode/1 base64url.encode_no_pad/1 bits.and/2 bits.lsh/2 bits.negate/1 bits.or/2
bits.rsh/2 bits.xor/2 ceil/1 concat/2 contains/2 count/1 endswith/2 floor/1 format_int/2 glob.match/3
glob.quote_meta/1 graph.reachable/2 graph.reachable_paths/2 hex.decode/1 hex.encode/1 indexof/2 indexof_n/2
intersection/1 is_array/1 is_boolean/1 is_null/1 is_number/1 is_object/1 is_set/1 is_string/1 json.filter/2
json.is_valid/1 json.marshal/1 json.marshal_with_options/2 json.match_schema/2 json.patch/2 json.remove/2
json.unmarshal/1 json.verify_schema/1 lower/1 max/1 min/1 net.cidr_contains/2 net.cidr_expand/1 net.cidr_is_valid/1
numbers.range/2 numbers.range_step/3 object.filter/2 object.get/3 object.keys/1 object.remove/2 object.subset/2
object.union/2 object.union_n/1 product/1 rand.intn/2 regex.find_all_string_submatch_n/3 regex.find_n/3
regex.is_valid/1 regex.match/2 regex.replace/3 regex.split/2 regex.template_match/4 replace/3 round/1
semver.compare/2 semver.is_valid/1 sort/1 split/2 sprintf/2 startswith/2 strings.any_prefix_match/2
strings.any_suffix_match/2 strings.count/2 strings.replace_n/2 strings.reverse/1 substring/3 sum/1 time.add_date/4
time.clock/1 time.date/1 time.diff/2 time.format/1 time.now_ns/0 time.parse_duration_ns/1 time.parse_ns/2
time.parse_rfc3339_ns/1 time.weekday/1 to_number/1 trim/2 trim_left/2 trim_prefix/2 trim_right/2 trim_space/1
trim_suffix/2 type_name/1 union/1 units.parse/1 units.parse_bytes/1 upper/1 urlquery.decode/1
urlquery.decode_object/1 urlquery.encode/1 urlquery.encode_object/1 uuid.parse/1 uuid.rfc4122/1 walk/1
yaml.is_valid/1 yaml.marshal/1 yaml.unmarshal/1
"""


def _arities(listing: str) -> dict[str, int]:
    pairs = (entry.rsplit("/", 1) for entry in listing.split())
    return {name: int(count) for name, count in pairs}


ARITY: Final[Mapping[str, int]] = {**_arities(_EMBEDDED), **{name: count for name, count, _ in EXTENSIONS}}
"""Every function that may be called, with the number of its arguments (an output argument may follow them)."""

VARIADIC: Final = frozenset({"print"})

FORBIDDEN: Final[Mapping[str, str]] = {
    "http.send": "a decision does not depend on the network; put what it needs into data or into the question",
    "net.lookup_ip_addr": "a decision does not depend on the network; compare addresses with net.cidr_contains",
    "opa.runtime": "policy does not see the process it runs in; put what it needs into data",
    "rego.metadata.chain": "the embedded engine has no annotations; write the value into the rule",
    "rego.metadata.rule": "the embedded engine has no annotations; write the value into the rule",
    "rego.parse_module": "policy does not read policy; do this in a check outside",
    "trace": "use print, and `interlock policy eval`",
}
"""Functions that are refused, with what to do instead."""

IMPURE: Final = frozenset({"rand.intn", "time.now_ns", "uuid.rfc4122", *FORBIDDEN})
"""Functions whose value is not decided by their arguments."""

_UNBOUNDED: Final = (
    "bits.lsh format_int graph.reachable graph.reachable_paths json.match_schema json.patch json.unmarshal "
    "json.verify_schema net.cidr_expand numbers.range numbers.range_step regex.find_all_string_submatch_n regex.find_n "
    "regex.match regex.replace regex.split regex.template_match sprintf strings.replace_n walk yaml.unmarshal"
)

UNBOUNDED: Final = frozenset(_UNBOUNDED.split())
"""Functions whose cost may grow far beyond the size of their arguments, or whose compiled form the caller chooses."""

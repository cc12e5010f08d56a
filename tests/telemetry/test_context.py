"""Trace context taken in and given out."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry import TraceContext, begin, parse, start
from tests.telemetry.samples import PARENT, SPAN, TRACE

OTHER_TRACE = "a" * 32
OTHER = f"00-{OTHER_TRACE}-{'b' * 16}-00"


def test_valid_traceparent_is_read() -> None:
    context = parse(PARENT)

    assert context is not None
    assert (context.trace_id, context.span_id, context.sampled) == (TRACE, SPAN, True)
    assert context.traceparent == PARENT


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        PARENT[:-1],
        PARENT + "0",
        PARENT + "-x",
        PARENT.upper(),
        " " + PARENT,
        PARENT + "\n",
        PARENT.replace("-", "_"),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE}-{SPAN}",
        f"cc-{TRACE}-{SPAN}-01.future",
        f"00-{TRACE[:-1]}٣-{SPAN}-01",
    ],
)
def test_invalid_traceparent_is_none(traceparent: str) -> None:
    assert parse(traceparent) is None


@pytest.mark.parametrize("rest", ["", "-", "-what-the-future-brings"])
def test_later_version_is_read_as_far_as_it_is_known(rest: str) -> None:
    context = parse(f"cc-{TRACE}-{SPAN}-ff{rest}")

    assert context is not None
    assert context.traceparent == f"00-{TRACE}-{SPAN}-03"


@pytest.mark.parametrize(
    ("tracestate", "kept"),
    [
        ("congo=t61rcWkgMzE", "congo=t61rcWkgMzE"),
        ("a=1 , b=2,\tc=3", "a=1,b=2,c=3"),
        ("tenant@vendor=x y", "tenant@vendor=x y"),
        ("interlock=p:0123456789abcdef,a=1", "a=1"),
        ("interlock=whatever,a=1", "a=1"),
        ("a=1,a=2", ""),
        ("a=1,B=2", ""),
        ("a=1,b", ""),
        ("a=1,b=c=d", ""),
        ("a=1,b=\x01", ""),
        ("a=1,b=é", ""),
        (",".join(f"k{n}=v" for n in range(33)), ""),
        ("a=" + "x" * 300, ""),
        (",".join(f"k{n}={'v' * 20}" for n in range(32)), ""),
    ],
)
def test_tracestate_is_taken_whole_or_not_at_all(tracestate: str, kept: str) -> None:
    context = parse(PARENT, tracestate)

    assert context is not None
    assert context.others_state == kept


@given(st.text("0123456789abcdefABCDEF-g", max_size=60), st.text("ab=,;:@ip\t 01", max_size=40))
def test_nothing_makes_the_parser_fail_and_what_it_takes_is_canonical(traceparent: str, tracestate: str) -> None:
    context = parse(traceparent, tracestate)

    assert context is None or parse(context.traceparent) is not None


@given(
    st.integers(0, 255).map("{:02x}".format),
    st.integers(0, 2**128 - 1).map("{:032x}".format),
    st.integers(0, 2**64 - 1).map("{:016x}".format),
    st.integers(0, 255),
)
def test_exactly_the_well_formed_is_taken(version: str, trace_id: str, span_id: str, flags: int) -> None:
    context = parse(f"{version}-{trace_id}-{span_id}-{flags:02x}")

    assert (context is not None) == (version != "ff" and int(trace_id, 16) > 0 and int(span_id, 16) > 0)
    assert context is None or context.flags == flags & 3


def test_child_stays_in_the_trace_and_remembers_its_parent() -> None:
    parent = parse(PARENT, "congo=1")

    child = start(parent)

    assert (child.trace_id, child.parent_span_id, child.flags) == (TRACE, SPAN, 1)
    assert child.span_id != SPAN
    assert child.tracestate == f"interlock=p:{SPAN},congo=1"
    assert parse(child.traceparent, child.tracestate) == child


def test_trace_without_a_parent_begins_here() -> None:
    first, second = start(), start()

    assert first.trace_id != second.trace_id
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", first.traceparent)
    assert (first.tracestate, first.parent_span_id) == ("", "")


def test_three_spans_of_a_call_have_three_ids() -> None:
    context = start()

    ids = {context.span_id, context.call_span_id, context.policy_span_id}

    assert len(ids) == 3
    assert all(re.fullmatch(r"[0-9a-f]{16}", one) for one in ids)


def test_context_in_meta_is_the_parent_and_that_of_the_request_is_linked() -> None:
    context = begin(OTHER, "http=1", {"traceparent": PARENT, "tracestate": "meta=1", "baggage": "user=ana"})

    assert (context.trace_id, context.parent_span_id) == (TRACE, SPAN)
    assert context.link == (OTHER_TRACE, "b" * 16)
    assert context.others_state == "meta=1"
    assert "ana" not in context.tracestate
    assert parse(context.traceparent, context.tracestate) == context


def test_context_of_the_request_is_the_parent_where_meta_has_none() -> None:
    context = begin(OTHER, "http=1", {})

    assert (context.trace_id, context.parent_span_id, context.link) == (OTHER_TRACE, "b" * 16, None)
    assert not context.sampled


@pytest.mark.parametrize("broken", [7, None, "", "garbage", {"a": 1}, [PARENT]])
def test_broken_context_in_meta_counts_as_none(broken: object) -> None:
    context = begin(OTHER, "", {"traceparent": broken, "tracestate": broken})

    assert (context.trace_id, context.link) == (OTHER_TRACE, None)


def test_broken_state_in_meta_is_dropped_alone() -> None:
    context = begin("", "", {"traceparent": PARENT, "tracestate": 5})

    assert (context.trace_id, context.others_state) == (TRACE, "")


def test_call_without_any_context_begins_a_trace() -> None:
    context = begin("", "", {})

    assert (context.parent_span_id, context.link, context.sampled) == ("", None, True)


def test_caller_who_is_not_trusted_is_linked_and_no_more() -> None:
    context = begin("", "", {"traceparent": OTHER, "tracestate": "a=1"}, trusted=False)

    assert context.trace_id != OTHER_TRACE
    assert (context.parent_span_id, context.others_state, context.sampled) == ("", "", True)
    assert context.link == (OTHER_TRACE, "b" * 16)
    assert parse(context.traceparent, context.tracestate) == context


def test_ids_do_not_repeat() -> None:
    assert len({start().span_id for _ in range(5_000)}) == 5_000


_FORKING = """
import os
from gateway.telemetry import start
start()
reading, writing = os.pipe()
if os.fork() == 0:
    os.write(writing, " ".join(start().span_id for _ in range(50)).encode())
    os._exit(0)
os.wait()
print(os.read(reading, 10_000).decode(), *[start().span_id for _ in range(50)])
"""


def test_forked_workers_do_not_share_ids() -> None:
    done = subprocess.run([sys.executable, "-c", _FORKING], capture_output=True, check=True, text=True, timeout=30)

    assert len(set(done.stdout.split())) == 100


def test_context_is_a_value() -> None:
    assert start(TraceContext("a" * 32, "b" * 16)).trace_id == "a" * 32

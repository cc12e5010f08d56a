"""The driver `gvisor`: what its probe finds out, and how it understands what `runsc` says."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxes import inside
from sandboxes.gvisor import Gvisor, probe, runsc
from sandboxes.host.process import ChildProcess, ProcessSpec
from tests.sandboxes.gvisor_boxes import (
    ROOT,
    stand_in,
    working_gvisor,
)


@pytest.fixture(scope="module")
async def driver() -> Gvisor:
    return await working_gvisor()


async def test_a_probe_whose_box_does_not_end_is_given_up(tmp_path: Path) -> None:
    script = "case $* in *version) echo none ;; *) echo 1 > /tmp/state/created; cat ;; esac"

    found = await Gvisor(stand_in(tmp_path, script), probe_s=0.5).probe()

    assert found.reason == "a box did not end within 0.5 s"


WITHOUT_NAMESPACES = """
import ctypes, os, sys
asks, asked = os.pipe()
goes, go = os.pipe()
child = os.fork()
if child == 0:
    if ctypes.CDLL(None).unshare(0x10000000) != 0:
        os._exit(1)
    os.write(asked, b"x")
    os.read(goes, 1)
    with open("/proc/sys/user/max_user_namespaces", "w") as limit:
        limit.write("0")
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
os.read(asks, 1)
for name in ("uid_map", "gid_map"):
    with open(f"/proc/{child}/{name}", "w") as mapped:
        mapped.write("0 0 4294967295")
os.write(go, b"x")
os.waitpid(child, 0)
"""
"""Runs a program as a root that may make no user namespace."""

PROBE = """
import anyio, json
from sandboxes.gvisor import Gvisor
found = anyio.run(Gvisor().probe)
print(json.dumps([found.ok, found.reason, found.remedy]))
"""


async def test_the_probe_says_that_user_namespaces_are_closed(driver: Gvisor) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can close them for the time of a test")
    spec = ProcessSpec((sys.executable, "-c", WITHOUT_NAMESPACES, PROBE), env={"PYTHONPATH": str(ROOT)})

    async with await ChildProcess.start(spec) as child:
        with anyio.fail_after(30):
            ok, reason, remedy = json.loads(await child.receive())

    assert not ok
    assert "namespace" in reason
    assert "user.max_user_namespaces" in remedy


@pytest.mark.parametrize(
    ("script", "reason", "remedy"),
    [
        ("exit 3", "does not tell its version", "bookworm-backports"),
        ("echo runsc version release-20221219.0", "is of 20221219, which is too old", "bookworm-backports"),
        (
            "case $* in *version) echo none ;; *) echo 1 > /tmp/state/created; echo uid=0; exit 1 ;; esac",
            "CapEff",
            "runsc",
        ),
    ],
)
async def test_the_probe_says_what_is_wrong_and_what_to_do(
    tmp_path: Path, script: str, reason: str, remedy: str
) -> None:
    with anyio.fail_after(20):
        found = await Gvisor(stand_in(tmp_path, script)).probe()

    assert not found.ok
    assert reason in found.reason
    assert remedy in found.remedy


async def test_the_probe_says_that_it_is_not_installed(tmp_path: Path) -> None:
    found = await Gvisor(str(tmp_path / "runsc")).probe()

    assert (found.ok, found.reason) == (False, "runsc is not installed")
    assert "apt-get install" in found.remedy


async def test_the_probe_of_a_working_gvisor_tells_its_release(driver: Gvisor) -> None:
    found = await driver.probe()

    assert found.ok
    assert re.match(r"\d{8}", found.version)
    assert "writable-binds" in found.features


GOOD = [f"uid={inside.UID}", "CapEff:" + "0" * 16, "CapBnd:" + "0" * 16, "net=lo", "done", ""]


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (GOOD, ""),
        ([], "does not say"),
        ([*GOOD, "net=eth0"], "not closed: net=eth0"),
        ([*GOOD, "core_pattern"], "not closed: core_pattern"),
        ([line.replace("0" * 16, "0" * 15 + "1") for line in GOOD], "does not say CapBnd"),
    ],
)
def test_a_box_that_reaches_too_much_fails_the_probe(lines: list[str], wrong: str) -> None:
    assert wrong in probe.what_is_wrong(lines, "it ended")
    assert bool(probe.what_is_wrong(lines, "it ended")) == bool(wrong)


@given(st.lists(st.text()))
def test_only_a_box_that_says_everything_passes_the_probe(lines: list[str]) -> None:
    assert probe.what_is_wrong(lines, "") != ""


@pytest.mark.parametrize(
    ("text", "release", "old"),
    [
        ("runsc version 0.0~20240729.0\nspec: 1.0.2-dev\n", "20240729.0", False),
        ("runsc version release-20221219.0\n", "20221219.0", True),
        ("runsc version VERSION_MISSING\n", "VERSION_MISSING", False),
        ("", "unknown", False),
    ],
)
def test_releases_are_told_apart_by_date(text: str, release: str, old: bool) -> None:
    assert (runsc.release_in(text), runsc.too_old(release)) == (release, old)


@given(st.text())
def test_any_version_text_has_a_release(text: str) -> None:
    assert 0 < len(runsc.release_in(text)) <= max(40, len(text))


@given(st.text())
def test_a_reason_is_one_short_line_whatever_the_box_wrote(text: str) -> None:
    reason = runsc.reason_in(text)

    assert reason == "" or len(reason.splitlines()) == 1
    assert len(reason) <= 300


def test_the_reason_is_what_runsc_said_and_not_its_stack_trace() -> None:
    said = "noise\nrunning container: creating container: no:\ngoroutine 1 [running]:\nmain.main()\n"

    assert runsc.reason_in(said) == "running container: creating container: no"
    assert runsc.reason_in("") == "it said nothing"

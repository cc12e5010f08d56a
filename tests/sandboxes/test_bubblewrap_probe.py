"""The driver `bubblewrap`: what its probe finds out, and what it says when there are no boxes to be had."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.boxes import Level
from gateway.cli.drivers import Tried
from gateway.errors import SandboxFailure
from sandboxes.bubblewrap import Bubblewrap
from sandboxes.cgroups import Cgroups
from tests.sandboxes.bubblewrap_boxes import sh, working_bubblewrap
from tests.sandboxes.places import a_place


@pytest.fixture
async def bubblewrap() -> Bubblewrap:
    return await working_bubblewrap()


async def test_probe_uses_a_box_and_tells_what_it_found(bubblewrap: Bubblewrap) -> None:
    probe = await bubblewrap.probe()

    assert probe.ok, probe.reason
    assert probe.version[0].isdigit()
    assert {"seccomp", "writable-binds"} <= probe.features
    assert (bubblewrap.name, bubblewrap.level, bubblewrap.fingerprint) == ("bubblewrap", Level.PROCESS, "")


async def test_probe_with_groups_says_so(bubblewrap: Bubblewrap) -> None:
    groups = Cgroups.found()
    if "memory" not in groups.limits:
        pytest.skip("no control group with memory can be made here")

    probe = await Bubblewrap(cgroups=groups).probe()

    assert "cgroup" in probe.features
    assert groups.sweep(f"probe-{os.getpid()}") == 0


def fake(directory: Path, script: str) -> str:
    path = directory / "bwrap"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("script", "reason", "remedy"),
    [
        ("exit 1", "does not tell its version", "apt-get install bubblewrap"),
        ("echo bubblewrap", "does not tell its version", "apt-get install bubblewrap"),
        ('[ "$1" = --version ] && echo "bubblewrap 0.8.0" && exit; echo "bwrap: no userns" >&2; exit 1', "no userns",
         "kernel.apparmor_restrict_unprivileged_userns"),
        ('echo "bubblewrap 0.8.0"; echo "fault: the net is bad"', "does not hold: the net is bad", "do not use"),
        ('echo "bubblewrap 0.8.0"', "a box cannot be built: status 0", "user namespaces"),
    ],
)  # fmt: skip
async def test_probe_says_why_not_and_what_to_do(script: str, reason: str, remedy: str, tmp_path: Path) -> None:
    probe = await Bubblewrap(fake(tmp_path, script)).probe()

    assert not probe.ok
    assert reason in probe.reason
    assert remedy in probe.remedy


async def test_probe_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandboxes.bubblewrap._DEADLINE_S", 0.2)

    probe = await Bubblewrap(fake(tmp_path, "exec sleep 60")).probe()

    assert (probe.ok, probe.reason) == (False, "a box was not up and down in 0.2 s")


async def test_missing_bubblewrap_is_named_with_the_remedy(tmp_path: Path) -> None:
    driver = Bubblewrap("no-such-bwrap")

    probe = await driver.probe()
    async with a_place(tmp_path) as place:
        with pytest.raises(SandboxFailure, match="no 'no-such-bwrap' here; install bubblewrap"):
            await driver.start(sh("true"), place)

    assert (probe.ok, probe.version) == (False, "")
    assert "apt-get install bubblewrap" in probe.remedy


async def test_probe_of_a_program_that_went_away_says_to_install_it(tmp_path: Path) -> None:
    driver = Bubblewrap(fake(tmp_path, 'echo "bubblewrap 0.8.0"; echo done'))
    before = await driver.probe()
    (tmp_path / "bwrap").unlink()

    after = await driver.probe()

    assert before.ok
    assert (after.ok, after.version) == (False, "")
    assert "apt-get install bubblewrap" in after.remedy


async def test_box_without_landlock_is_judged_by_every_check_and_the_lack_is_told(tmp_path: Path) -> None:
    told = "echo bubblewrap 0.8.0; echo done"

    lacking = await Bubblewrap(fake(tmp_path, told)).probe()
    leaking = await Bubblewrap(fake(tmp_path, told.replace("echo done", "echo fault: the net; echo done"))).probe()
    words = Tried("bubblewrap", Level.PROCESS, lacking).words

    assert lacking.ok
    assert "landlock" not in lacking.features
    assert "without Landlock, one wall less" in words
    assert (leaking.ok, leaking.reason) == (False, "a box does not hold: the net")


async def test_box_with_landlock_lacks_nothing(bubblewrap: Bubblewrap) -> None:
    probe = await bubblewrap.probe()

    assert (probe.reason == "") is ("landlock" in probe.features)

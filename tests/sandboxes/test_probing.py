"""Each driver is used once for real; that a slow one works is remembered until it, or the machine, is another."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from gateway.boxes import Level
from sandboxes import probing
from sandboxes.driver import Driver, Probe
from sandboxes.probing import Probes
from tests.sandboxes.host_driver import HostDriver

FINE = Probe(True, "7.2", "a note", "a hint", frozenset({"warm", "seccomp"}))
BROKEN = Probe(False, "7.2", "the guest did not boot in 20 s", "look at dmesg")


def slow(answer: Probe = FINE, fingerprint: str = "qemu 1") -> HostDriver:
    return HostDriver("slow", Level.VM, answer, fingerprint=fingerprint)


async def test_driver_is_probed_once(tmp_path: Path) -> None:
    driver, probes = slow(), Probes(tmp_path / "kept.json")

    answers = [await probes.of(driver) for _ in range(3)]

    assert answers == [FINE] * 3
    assert driver.probes == 1


@pytest.mark.parametrize("answer", [FINE, BROKEN])
async def test_all_who_ask_at_once_wait_for_one_probe(tmp_path: Path, answer: Probe) -> None:
    driver, probes, found = slow(answer), Probes(tmp_path / "kept.json"), list[Probe]()
    driver.gate = anyio.Event()

    async def ask(one: Driver) -> None:
        found.append(await probes.of(one))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(ask, driver)
            group.start_soon(ask, HostDriver())
            await anyio.wait_all_tasks_blocked()
            others = len(found)
            driver.gate.set()

    assert others == 1  # nobody waits for another driver
    assert found[1:] == [answer] * 5
    assert driver.probes == 1


async def test_success_is_remembered_by_the_next_run(tmp_path: Path) -> None:
    kept, again = tmp_path / "state" / "kept.json", slow()
    await Probes(kept).of(slow())
    await Probes(kept).of(HostDriver("other", fingerprint="x"))

    answer = await Probes(kept).of(again)

    assert answer == FINE
    assert again.probes == 0
    assert kept.parent.stat().st_mode & 0o777 == 0o700


async def test_failure_is_found_out_again_by_the_next_run(tmp_path: Path) -> None:
    kept, again = tmp_path / "kept.json", slow()

    first = await Probes(kept).of(slow(BROKEN))
    second = await Probes(kept).of(again)

    assert (first, second, again.probes) == (BROKEN, FINE, 1)


async def test_success_of_another_version_or_boot_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, newer, rebooted = tmp_path / "kept.json", slow(fingerprint="qemu 2"), slow(fingerprint="qemu 2")
    await Probes(kept).of(slow())

    await Probes(kept).of(newer)
    (tmp_path / "boot_id").write_text("another boot\n")
    monkeypatch.setattr(probing, "_BOOT_ID", tmp_path / "boot_id")
    await Probes(kept).of(rebooted)

    assert (newer.probes, rebooted.probes) == (1, 1)


async def test_machine_without_boot_ids_goes_by_the_driver_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "_BOOT_ID", tmp_path / "none")
    kept, again = tmp_path / "kept.json", slow()
    await Probes(kept).of(slow())

    await Probes(kept).of(again)

    assert again.probes == 0


async def test_quick_driver_is_probed_at_each_start(tmp_path: Path) -> None:
    kept, driver = tmp_path / "kept.json", HostDriver()

    await Probes(kept).of(driver)
    await Probes(kept).of(driver)

    assert driver.probes == 2
    assert not kept.exists()


async def test_without_a_file_nothing_is_remembered() -> None:
    driver = slow()

    await Probes().of(driver)
    await Probes().of(driver)

    assert driver.probes == 2


def answer_in(kept: Path) -> dict[str, object]:
    answers = json.loads(kept.read_text())
    answer = answers["slow"]
    assert isinstance(answer, dict)
    return answer


@pytest.mark.parametrize(
    "spoilt",
    [
        b"",
        b"\xff\xfe",
        b"[1]",
        b"{}",
        b"[" * 100_000,
        b'{"slow": 1}',
        b'{"slow": {}}',
        *({"version": 1}, {"reason": None}, {"remedy": []}, {"features": "warm"}, {"of": ["", "qemu 1"]}),
    ],
    ids=repr,
)
async def test_file_that_is_not_as_we_wrote_it_is_as_none(tmp_path: Path, spoilt: bytes | dict[str, object]) -> None:
    kept, again, third = tmp_path / "kept.json", slow(), slow()
    await Probes(kept).of(slow())
    if isinstance(spoilt, bytes):
        kept.write_bytes(spoilt)
    else:
        kept.write_text(json.dumps({"slow": answer_in(kept) | spoilt}))

    answer = await Probes(kept).of(again)
    await Probes(kept).of(third)

    assert (answer, again.probes, third.probes) == (FINE, 1, 0)


async def test_features_that_are_not_known_any_more_are_left_out(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    await Probes(kept).of(slow())
    kept.write_text(json.dumps({"slow": answer_in(kept) | {"features": ["warm", "teleport", ["x"]]}}))

    answer = await Probes(kept).of(slow())

    assert answer.features == {"warm"}


async def test_answer_that_cannot_be_kept_counts_for_this_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    driver = slow()
    probes = Probes(tmp_path / "file" / "kept.json")

    answers = [await probes.of(driver) for _ in range(2)]

    assert answers == [FINE] * 2
    assert driver.probes == 1

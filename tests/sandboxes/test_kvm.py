"""Which group a box's user needs for /dev/kvm: the device's own, never root's, and none where everybody may."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandboxes import kvm

GROUP = 54321


@pytest.mark.parametrize(
    ("mode", "group", "needed", "is_open"),
    [
        (0o660, GROUP, (GROUP,), True),
        (0o666, GROUP, (), True),
        (0o640, GROUP, (), False),
        (0o600, GROUP, (), False),
        (0o660, 0, (), False),
        (0o666, 0, (), True),
    ],
)
def test_only_the_group_of_the_device_is_joined(
    mode: int, group: int, needed: tuple[int, ...], is_open: bool, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: only root chooses the groups of a box")
    device = tmp_path / "kvm"
    device.touch()
    os.chown(device, 0, group)
    device.chmod(mode)

    assert kvm.groups(device) == needed
    assert kvm.is_open(device) is is_open


def test_a_machine_without_the_device_has_neither(tmp_path: Path) -> None:
    assert kvm.groups(tmp_path / "kvm") == ()
    assert not kvm.is_open(tmp_path / "kvm")


def test_a_gateway_that_is_not_root_can_only_use_its_own_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert kvm.groups(tmp_path / "kvm") == ()
    assert kvm.is_open(tmp_path / "kvm") is os.access(tmp_path / "kvm", os.R_OK | os.W_OK)

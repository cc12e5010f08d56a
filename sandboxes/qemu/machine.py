"""What QEMU is told to be, and the walls that it runs behind, as two command lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from sandboxes.host.plan import STAGE
from sandboxes.qemu.relay import CONSOLE, MONITOR, STATE, WIRE
from sandboxes.spec import MIB, Limits

Accelerator: TypeAlias = Literal["kvm", "tcg"]

OVERHEAD_BYTES: Final[Mapping[Accelerator, int]] = {"kvm": 224 * MIB, "tcg": 416 * MIB}
"""What a box takes on the host beyond `Limits.memory_bytes`: the guest's kernel, QEMU itself and the relay."""
_TRANSLATED_MIB: Final = 192
"""For translated code: what does not fit is translated again and again, which makes node a third slower at 64."""
_LEAST_RAM: Final = 192 * MIB
_GUEST_OVERHEAD: Final = 96 * MIB
_MACHINE: Final = "q35,smm=off,sata=off,usb=off,vmport=off,i8042=off"
_APPEND: Final = "console=ttyS0 quiet loglevel=3 reboot=t panic=-1 random.trust_cpu=on cryptomgr.notests tsc=reliable"
_SECCOMP: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, slots=True)
class Machine:
    """One kind of machine; a frozen one can only be thawed in one that is the same."""

    accelerator: Accelerator
    ram_bytes: int
    serials: tuple[str, ...]
    """One read-only disk each."""


def ram_for(limits: Limits) -> int:
    """How much memory the guest has, so that the program can have what its limits say."""
    wanted = max(_LEAST_RAM, limits.memory_bytes + _GUEST_OVERHEAD)
    return -(-wanted // (2 * MIB)) * 2 * MIB


def qemu(machine: Machine, binary: str, *, thaw: bool) -> list[str]:
    """QEMU's command line, as it runs inside of its walls. There is no network card, and nothing writable."""
    tcg = machine.accelerator == "tcg"
    fast = " nokaslr mitigations=off" if tcg else ""
    command = [binary, "-M", _MACHINE, "-nodefaults", "-no-user-config"]
    command += [
        "-cpu",
        "Nehalem,+rdrand,enforce=off" if tcg else "host",
        "-smp",
        "1",
        "-m",
        f"{machine.ram_bytes // MIB}M",
    ]
    command += ["-accel", f"tcg,tb-size={_TRANSLATED_MIB}" if tcg else "kvm"]
    command += ["-display", "none", "-no-reboot", "-sandbox", _SECCOMP]
    command += ["-kernel", "/vm/kernel", "-initrd", "/vm/initrd", "-append", _APPEND + fast]
    for name, fd in (("wire", WIRE), ("monitor", MONITOR), ("console", CONSOLE)):
        command += ["-chardev", f"socket,id={name},fd={fd}"]
    command += ["-serial", "chardev:console", "-mon", "chardev=monitor,mode=control"]
    command += ["-device", "virtio-serial-pci,max_ports=2", "-device", "virtserialport,nr=1,chardev=wire,name=wire"]
    for number, serial in enumerate(machine.serials):
        drive = f"file=/vm/disk{number},if=none,id=d{number},format=raw,readonly=on,file.locking=off"
        command += ["-drive", drive, "-device", f"virtio-blk-pci,drive=d{number},serial={serial}"]
    return command + (["-S", "-incoming", f"fd:{STATE}"] if thaw else [])


def walls(bwrap: str, files: Sequence[tuple[Path, str]], disks: int, *, kvm: bool) -> list[str]:
    """Bubblewrap's command line up to the command: QEMU's own files, the machine's, and nothing else of the host."""
    command = [bwrap, "--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL", "--die-with-parent"]
    command += ["--new-session", "--hostname", "machine"]
    for source, target in files:
        command += ["--ro-bind", str(source), target]
    command += ["--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--dev", "/dev"]
    command += ["--dev-bind", "/dev/kvm", "/dev/kvm"] if kvm else []
    for name in ("kernel", "initrd", *disk_names(disks)):
        command += ["--ro-bind", f"{STAGE}/{name}", f"/vm/{name}"]
    return [*command, "--chdir", "/", "--remount-ro", "/", "--"]


def disk_names(count: int) -> Iterator[str]:
    """What the stage calls the disks."""
    return (f"disk{number}" for number in range(count))

"""The filter of system calls, run through an interpreter of classic BPF and loaded into real kernels' processes."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import os
import platform
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxes import seccomp
from sandboxes.syscalls import MACHINES, NEWEST, Machine

ALLOW, KILL, ERRNO = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
X32 = 0x4000_0000
NAMES = sorted(MACHINES)


def answer(program: bytes, audit: int, number: int, *arguments: int) -> int:
    """What the kernel would do: an interpreter for the instructions that the kernel knows and we use."""
    data = struct.pack("=IIQ6Q", number & 0xFFFF_FFFF, audit, 0, *(*arguments, *[0] * 6)[:6])
    steps = list(struct.iter_unpack("=HBBI", program))
    loaded, place = 0, 0
    while True:
        code, yes, no, value = steps[place]
        place += 1
        match code:
            case 0x20:
                (loaded,) = struct.unpack_from("=I", data, value)
            case 0x54:
                loaded &= value
            case 0x15:
                place += yes if loaded == value else no
            case 0x35:
                place += yes if loaded >= value else no
            case 0x45:
                place += yes if loaded & value else no
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"instruction {code:#x}")


def asked(machine: str, number: int, *arguments: int) -> int:
    program = seccomp.program(machine)
    assert program is not None
    return answer(program, MACHINES[machine].audit, number, *arguments)


def error(number: int) -> int:
    return ERRNO | number


@pytest.mark.parametrize("machine", NAMES)
def test_refused_calls_are_refused_and_those_after_the_newest_do_not_exist(machine: str) -> None:
    for number in MACHINES[machine].refused.values():
        assert asked(machine, number) == error(errno.EPERM)
    assert asked(machine, NEWEST + 1) == asked(machine, 100_000) == error(errno.ENOSYS)
    assert asked(machine, MACHINES[machine].checked["clone3"]) == error(errno.ENOSYS)


@pytest.mark.parametrize("machine", NAMES)
@given(number=st.integers(0, NEWEST), arguments=st.lists(st.integers(0, (1 << 64) - 1), min_size=6, max_size=6))
def test_every_other_call_is_allowed_whatever_its_arguments(machine: str, number: int, arguments: list[int]) -> None:
    known: Machine = MACHINES[machine]

    verdict = asked(machine, number, *arguments)

    if number not in {*known.refused.values(), *known.checked.values()}:
        assert verdict == ALLOW
    else:
        assert verdict == ALLOW or verdict & 0xFFFF_0000 == ERRNO


@pytest.mark.parametrize("machine", NAMES)
@given(audit=st.integers(0, (1 << 32) - 1), number=st.integers(0, (1 << 32) - 1))
def test_another_architecture_and_the_second_table_of_x86_kill(machine: str, audit: int, number: int) -> None:
    program = seccomp.program(machine)
    assert program is not None
    own = MACHINES[machine].audit

    assert answer(program, own ^ (audit or 1), number) == KILL
    assert answer(program, own, X32 | number) == (KILL if machine == "x86_64" else error(errno.ENOSYS))


@pytest.mark.parametrize("machine", NAMES)
@pytest.mark.parametrize(
    ("call", "arguments", "verdict"),
    [
        ("clone", (0x1200011,), ALLOW),
        ("clone", (0x3D0F00,), ALLOW),
        ("clone", (0x1000_0011,), error(errno.EPERM)),
        ("clone", (0x0002_0000,), error(errno.EPERM)),
        ("clone", (0x0200_0000,), error(errno.EPERM)),
        ("clone", (0x4000_0000 | 1 << 40,), error(errno.EPERM)),
        ("socket", (1, 1 | 0x80000, 0), ALLOW),
        ("socket", (2, 1 | 0x80800, 6), ALLOW),
        ("socket", (10, 2, 17), ALLOW),
        ("socket", (2, 3, 0), error(errno.EPERM)),
        ("socket", (2, 3 | 0x80000, 1), error(errno.EPERM)),
        ("socket", (2, 1 | 1 << 4, 6), error(errno.EPERM)),
        ("socket", (10, 2, 58), error(errno.EPROTONOSUPPORT)),
        ("socket", (2, 1, 262), error(errno.EPROTONOSUPPORT)),
        ("socket", (16, 3, 0), error(errno.EAFNOSUPPORT)),
        ("socket", (17, 3, 0), error(errno.EAFNOSUPPORT)),
        ("socket", (38, 5, 0), error(errno.EAFNOSUPPORT)),
        ("socket", (40, 1, 0), error(errno.EAFNOSUPPORT)),
        ("socketpair", (1, 1 | 0x80800, 0), ALLOW),
        ("socketpair", (30, 1, 0), error(errno.EAFNOSUPPORT)),
        ("socketpair", (16, 3, 0), error(errno.EAFNOSUPPORT)),
        ("ioctl", (0, 0x5413), ALLOW),
        ("ioctl", (0, 0x5412), error(errno.EPERM)),
        ("ioctl", (0, 0x5412 | 1 << 32), error(errno.EPERM)),
        ("ioctl", (0, 0x541C), error(errno.EPERM)),
        ("ioctl", (0, 0x5423), error(errno.EPERM)),
        ("personality", (0xFFFF_FFFF,), ALLOW),
        ("personality", (0x2_0008,), ALLOW),
        ("personality", (0x40_0000,), error(errno.EPERM)),
        ("memfd_create", (0, 8 | 1), ALLOW),
        ("memfd_create", (0, 1), error(errno.EPERM)),
        ("memfd_create", (0, 0x10), error(errno.EPERM)),
    ],
)
def test_arguments_that_matter_are_looked_at(machine: str, call: str, arguments: tuple[int, ...], verdict: int) -> None:
    assert asked(machine, MACHINES[machine].checked[call], *arguments) == verdict


def test_memory_without_the_right_to_execute_must_be_told_so_exactly() -> None:
    # MFD_EXEC beside MFD_NOEXEC_SEAL is refused by the kernel itself
    number = MACHINES["x86_64"].checked["memfd_create"]

    assert asked("x86_64", number, 0, 8 | 0x10) == ALLOW


def test_program_is_small_enough_for_the_kernel_and_made_once() -> None:
    for machine in NAMES:
        program = seccomp.program(machine)
        assert program is not None
        assert len(program) % 8 == 0
        assert len(program) // 8 < 4096
        assert seccomp.program(machine) is program


def test_machine_that_is_not_known_has_no_program() -> None:
    assert seccomp.program("riscv64") is None


def test_this_machine_is_the_default() -> None:
    if platform.machine() not in MACHINES:
        pytest.skip(f"no filter for {platform.machine()}")

    assert seccomp.program() == seccomp.program(platform.machine())


@pytest.mark.parametrize("machine", NAMES)
def test_numbers_are_those_of_libseccomp(machine: str) -> None:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp2 is not here to compare with: apt-get install libseccomp2")
    resolve = library.seccomp_syscall_resolve_name_arch
    resolve.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    known = MACHINES[machine]

    for name, number in {**known.refused, **known.checked}.items():
        theirs = resolve(known.audit, name.encode())
        assert theirs in {number, -1}, name  # -1: newer than the library


LOADED = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
program = open(sys.argv[1], "rb").read()
class Program(ctypes.Structure):
    _fields_ = [("count", ctypes.c_ushort), ("steps", ctypes.c_char_p)]
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(len(program) // 8, program)), 0, 0) == 0
def failed(*call):
    return errno.errorcode[ctypes.get_errno()] if libc.syscall(*call) < 0 else ""
print(failed(int(sys.argv[2])), failed(100000))
import socket, threading, subprocess
try:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
except OSError as exc:
    print(errno.errorcode[exc.errno])
threading.Thread(target=print, args=("thread",)).start()
print(subprocess.run(["/bin/echo", "child"], stdout=subprocess.PIPE, text=True).stdout, end="")
print(socket.getaddrinfo("127.0.0.1", 80)[0][4][0])
"""


def test_kernel_takes_the_program_and_threads_children_and_names_go_on(tmp_path: Path) -> None:
    program = seccomp.program()
    if program is None:
        pytest.skip(f"no filter for {platform.machine()}")
    (tmp_path / "program").write_bytes(program)
    unshare = MACHINES[platform.machine()].refused["unshare"]

    command = [sys.executable, "-IS", "-c", LOADED, str(tmp_path / "program"), str(unshare)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    assert ran.stdout.split("\n")[:5] == ["EPERM ENOSYS", "EAFNOSUPPORT", "thread", "child", "127.0.0.1"], ran.stderr


def test_node_runs_under_the_program(tmp_path: Path) -> None:
    program = seccomp.program()
    if program is None or not os.path.exists("/usr/bin/node"):
        pytest.skip("no node here: apt-get install nodejs")
    (tmp_path / "program").write_bytes(program)
    start = LOADED.partition("def failed")[0] + "os.execv('/usr/bin/node', ['node', '-e', 'console.log(1 + 1)'])"

    command = [sys.executable, "-IS", "-c", start, str(tmp_path / "program")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    assert ran.stdout == "2\n", ran.stderr

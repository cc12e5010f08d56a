"""System calls by name, without what a C library would do on the way. Runs inside the box: standard library only."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any, Final

_X86_64: Final = {
    "accept4": 288, "acct": 163, "add_key": 248, "adjtimex": 159, "bpf": 321, "capset": 126, "chroot": 161,
    "clone": 56, "delete_module": 176, "execveat": 322, "fanotify_init": 300, "finit_module": 313,
    "init_module": 175, "inotify_add_watch": 254, "inotify_init1": 294, "ioperm": 173, "iopl": 172, "ioprio_set": 251,
    "kcmp": 312, "kexec_file_load": 320, "kexec_load": 246, "keyctl": 250, "memfd_create": 319, "migrate_pages": 256,
    "mknodat": 259, "modify_ldt": 154, "mount": 165, "move_pages": 279, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "perf_event_open": 298, "personality": 135, "pivot_root": 155, "process_vm_readv": 310,
    "process_vm_writev": 311, "ptrace": 101, "quotactl": 179, "reboot": 169, "request_key": 249, "setdomainname": 171,
    "sethostname": 170, "setns": 308, "swapoff": 168, "swapon": 167, "syslog": 103, "umount2": 166, "unshare": 272,
    "userfaultfd": 323, "vhangup": 153, "shmget": 29, "shmat": 30, "shmdt": 67,
    "semget": 64, "semctl": 66, "msgget": 68,
    "msgctl": 71, "mq_open": 240, "ioctl": 16, "settimeofday": 164,
}  # fmt: skip
_AARCH64: Final = {
    "accept4": 242, "acct": 89, "add_key": 217, "adjtimex": 171, "bpf": 280, "capset": 91, "chroot": 51,
    "clone": 220, "delete_module": 106, "execveat": 281, "fanotify_init": 262, "finit_module": 273,
    "init_module": 105, "inotify_add_watch": 27, "inotify_init1": 26, "ioprio_set": 30,
    "kcmp": 272, "kexec_file_load": 294, "kexec_load": 104, "keyctl": 219, "memfd_create": 279, "migrate_pages": 238,
    "mknodat": 33, "mount": 40, "move_pages": 239, "name_to_handle_at": 264,
    "open_by_handle_at": 265, "perf_event_open": 241, "personality": 92, "pivot_root": 41, "process_vm_readv": 270,
    "process_vm_writev": 271, "ptrace": 117, "quotactl": 60, "reboot": 142, "request_key": 218, "setdomainname": 162,
    "sethostname": 161, "setns": 268, "swapoff": 225, "swapon": 224, "syslog": 116, "umount2": 39, "unshare": 97,
    "userfaultfd": 282, "vhangup": 58, "shmget": 194, "shmat": 196, "shmdt": 197,
    "semget": 190, "semctl": 191, "msgget": 186,
    "msgctl": 187, "mq_open": 180, "ioctl": 29, "settimeofday": 170,
}  # fmt: skip
_EVERYWHERE: Final = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsmount": 432, "fspick": 433, "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438,
    "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443, "memfd_secret": 447, "process_mrelease": 448,
    "lsm_set_self_attr": 460, "open_tree_attr": 467,
}  # fmt: skip
NUMBERS: Final = {**({"x86_64": _X86_64, "aarch64": _AARCH64}.get(platform.machine(), {})), **_EVERYWHERE}
X32_BIT: Final = 0x4000_0000
AT_FDCWD: Final = -100

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call(name: str, *arguments: Any, extra: int = 0) -> int:
    """Make the call. Raises `OSError` with the kernel's error; a call that this machine does not have is `ENOSYS`."""
    number = NUMBERS.get(name, 9999) | extra
    result = _libc.syscall(ctypes.c_long(number), *(_long(argument) for argument in arguments))
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(result)


def _long(argument: Any) -> Any:
    """Numbers as whole registers: a C int would leave half of one to chance."""
    return ctypes.c_long(argument) if isinstance(argument, int) else argument


def prctl(option: int, *arguments: int) -> int:
    """prctl(2)."""
    result = int(_libc.prctl(option, *(ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4])))
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result

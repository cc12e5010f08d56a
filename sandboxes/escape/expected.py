"""What each driver's own kernel grants to the box it serves, and why the host has nothing to do with it.

Whatever is not listed has to be blocked. Only what a check of reach `kernel` finds can be listed at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_OWN_NAMESPACES: Final = "namespaces of the sentry's own making; nothing is made on the host"
_CODE: Final = "code runs on the sentry in any case, so noexec keeps out less than it does on Linux"

_GVISOR: Final = {
    "files.proc-fd": "the streams of the box's own relay, which are /dev/null; the launcher is not in the box",
    "ns.unshare-user": _OWN_NAMESPACES,
    "ns.unshare-cgroup": "the flag is taken and ignored",
    "ns.unshare-time": "the flag is taken and ignored",
    "ns.user-root": "root of a namespace of the sentry's, which mounts inside the sentry",
    "ns.clone": _OWN_NAMESPACES,
    "ns.clone3": _OWN_NAMESPACES,
    "process.seccomp": "the filter is round the sentry, where the box cannot see it",
    "process.priority": "a nice value that the sentry notes and does not act on",
    "process.oom": "a number that the sentry notes; the host kills the sentry as a whole",
    "exec.memory": _CODE,
    "exec.map": _CODE,
    "exec.loader": _CODE,
    "exec.mount-flags": "statvfs does not tell nosuid and nodev; executing gains nothing (exec.setuid-own)",
    "kernel.keys": "keyrings of the sentry's own, empty",
    "kernel.log": "a made-up log",
    "device.list": "the sentry's own /dev/fuse and /dev/net/tun; it opens none of the host's",
    "network.netlink": "a socket on which the sentry never says anything",
    "network.administer": "socket options that the sentry takes and ignores; there is no network beyond its lo",
    "limit.inodes": "files are memory of the sentry, which is limited as a whole (bomb `inodes`)",
    "limit.huge-pages": "the flag is taken and ignored",
}

EMULATED: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {"bubblewrap": {}, "gvisor": _GVISOR, "qemu-tcg": {}, "qemu": {}}
)
"""Driver, check, reason."""

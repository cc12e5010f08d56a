"""Every driver that the escape suite is for."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandboxes.bubblewrap import Bubblewrap
from sandboxes.driver import Driver
from sandboxes.gvisor.driver import Gvisor
from sandboxes.qemu.driver import Qemu

_KERNEL: Final = Path(os.environ.get("INTERLOCK_KERNEL_DIR", "/"))
_CACHE: Final = "INTERLOCK_TEST_IMAGES"


@dataclass(frozen=True)
class Made:
    """How to make a driver, and what is special about it.

    Its boxes have a kernel of their own or not; a gateway that is not root can use it; a box takes seconds to start.
    """

    make: Callable[[], Driver]
    own_kernel: bool = True
    unprivileged: bool = False
    slow: bool = False


@functools.cache
def images() -> Path:
    """Where disk images are kept until these tests end, also for the gateways that they start."""
    if _CACHE not in os.environ:
        os.environ[_CACHE] = tempfile.mkdtemp(prefix="interlock-images-", dir="/var/tmp")
        atexit.register(shutil.rmtree, os.environ[_CACHE], ignore_errors=True)
    return Path(os.environ[_CACHE])


DRIVERS: Final[Mapping[str, Made]] = {
    "bubblewrap": Made(Bubblewrap, own_kernel=False, unprivileged=True),
    "gvisor": Made(Gvisor, unprivileged=True),
    "qemu-tcg": Made(lambda: Qemu("tcg", images(), _KERNEL), slow=True),
    "qemu": Made(lambda: Qemu("kvm", images(), _KERNEL), slow=True),
}

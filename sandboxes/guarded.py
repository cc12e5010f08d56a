"""Lists what no box may see or write: the secrets of this machine and its people, and the gateway's own files."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

Named: TypeAlias = Mapping[Path, str]
"""Paths, and what each of them is."""

NOTHING: Final[Named] = {}

_KERNEL: Final = "the kernel's view of this machine"
_SEALED: Final = {
    "/proc": _KERNEL,
    "/sys": _KERNEL,
    "/dev": "the devices of this machine",
    "/run": "the sockets and secrets of running services",
    "/var/run": "the sockets and secrets of running services",
    "/boot": "what this machine starts from",
    "/etc/shadow": "password hashes",
    "/etc/shadow-": "password hashes",
    "/etc/gshadow": "password hashes",
    "/etc/gshadow-": "password hashes",
    "/etc/sudoers": "who may become root",
    "/etc/sudoers.d": "who may become root",
    "/etc/ssh": "the host's SSH keys",
    "/etc/ssl/private": "private keys",
    "/etc/pki/tls/private": "private keys",
    "/etc/letsencrypt": "private keys",
    "/etc/kubernetes": "cluster credentials",
    "/etc/krb5.keytab": "the host's Kerberos keys",
    "/var/lib/docker": "other containers",
    "/var/lib/containerd": "other containers",
    "/var/lib/containers": "other containers",
    "/var/lib/kubelet": "other containers",
    "/var/lib/libvirt": "other machines",
    "/var/spool/cron": "scheduled commands",
}
"""Neither these, nor anything in them, nor anything around them."""
_WHOLE: Final = {
    "/": "everything",
    "/etc": "the settings of this machine",
    "/home": "everybody's files",
    "/root": "root's files",
    "/var": "everything that services keep",
    "/var/lib": "everything that services keep",
    "/var/tmp": "everybody's temporary files",  # noqa: S108  # refused
    "/tmp": "everybody's temporary files",  # noqa: S108  # refused
}
"""Not these as a whole; a part of them may be shown."""
_FIXED: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt/bin", "/var/spool")
"""Never writable, since the host runs or follows what is in them."""
_HOME_SEALED: Final = (
    ".ssh", ".gnupg", ".aws", ".azure", ".oci", ".kube", ".docker", ".terraform.d", ".password-store", ".netrc",
    ".pgpass", ".my.cnf", ".npmrc", ".pypirc", ".git-credentials", ".vault-token", ".boto", ".s3cfg", ".databrickscfg",
    ".cargo/credentials", ".cargo/credentials.toml", ".gem/credentials", ".m2/settings.xml",
    ".gradle/gradle.properties", ".local/share/keyrings",
    ".mozilla", ".thunderbird", ".claude", ".claude.json", ".codex", ".cursor", ".gemini",
    ".Xauthority", ".ICEauthority", ".bash_history", ".zsh_history", ".python_history", ".psql_history",
    ".mysql_history", ".node_repl_history", ".config/gcloud", ".config/gh", ".config/git", ".config/op",
    ".config/rclone", ".config/sops", ".config/containers", ".config/google-chrome", ".config/chromium",
    ".config/BraveSoftware", ".config/1Password", ".config/doctl", ".config/hub", ".config/configstore",
    "Library/Keychains",
)  # fmt: skip
_HOME_WHOLE: Final = (".", ".config", ".local", ".local/share", ".cache", "Library")
_AGENTS: Final = ("SSH_AUTH_SOCK", "XDG_RUNTIME_DIR", "GNUPGHOME", "KUBECONFIG", "NETRC", "XAUTHORITY")
"""Variables that say where keys are."""
_LEAST_PERSON: Final = 1000
_NOBODY: Final = 65534


@dataclass(frozen=True, slots=True)
class Guarded:
    """`sealed`: neither it, nor what is in it, nor what is around it is shown. `whole`: a part of it may be.

    `fixed` may be read, but neither it nor anything in or around it may be written.
    """

    sealed: Named
    whole: Named
    fixed: Named
    homes: tuple[Path, ...] = ()
    written: Named = field(default_factory=dict)
    """What boxes may write. Nothing inside is shown by a bind of its own: a box could make it a link to anything."""


def people() -> tuple[Path, ...]:
    """The homes of root, of everybody who logs in here, and of the gateway's own user."""
    entries = [
        entry
        for entry in pwd.getpwall()
        if entry.pw_uid in {0, os.getuid()} or (entry.pw_uid >= _LEAST_PERSON and entry.pw_uid != _NOBODY)
    ]
    found = {Path(entry.pw_dir) for entry in entries} | {Path.home()}
    return tuple(sorted(home for home in found if home.is_absolute() and home != Path("/")))


def guarded(
    private: Named,
    steering: Named,
    *,
    written: Named = NOTHING,
    homes: Sequence[Path] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Guarded:
    """What no box may see: the host's secrets and what is `private` to the gateway; `steering` may only be read.

    `written` is what boxes may write.
    """
    owners = people() if homes is None else tuple(homes)
    sealed = {Path(path): what for path, what in _SEALED.items()}
    sealed |= {home / name: "credentials or private data of a person" for home in owners for name in _HOME_SEALED}
    sealed |= {
        Path(environ[name]): f"what ${name} leads to" for name in _AGENTS if environ.get(name, "").startswith("/")
    }
    whole = {Path(path): what for path, what in _WHOLE.items()}
    whole |= {home / name: "the home of a person" for home in owners for name in _HOME_WHOLE}
    fixed = {Path(path): "what the host runs or follows" for path in _FIXED}
    fixed |= dict.fromkeys(_runs_from(environ), "what the gateway or its user runs")
    return Guarded({**sealed, **private}, whole, {**fixed, **steering}, owners, written)


def _runs_from(environ: Mapping[str, str]) -> set[Path]:
    entries = (*sys.path, sys.prefix, sys.base_prefix, *environ.get("PATH", "").split(os.pathsep))
    return {Path(entry) for entry in entries if entry.startswith("/")}

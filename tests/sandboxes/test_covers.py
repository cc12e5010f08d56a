"""No bind shows a box the secrets of the host or of the gateway, whatever it is called."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from sandboxes.binds import bind_of, place_fault
from sandboxes.covers import admitted
from sandboxes.guarded import Guarded, guarded, people
from sandboxes.spec import Bind


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in (".ssh", ".config/gh", ".local/bin", ".cache/tool", "projects/data"):
        (tmp_path / "home" / name).mkdir(parents=True)
    (tmp_path / "home/.ssh/id_ed25519").write_text("key")
    return tmp_path / "home"


@pytest.fixture
def guard(tmp_path: Path, home: Path) -> Guarded:
    for name in ("gate/.interlock", "gate/environments", "srv/data"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "gate/interlock.toml").write_text("")
    private = {
        tmp_path / "gate/.interlock": "the gateway's state",
        tmp_path / "gate/interlock.toml": "its configuration",
    }
    return guarded(private, {tmp_path / "gate/environments": "environments"}, homes=[home], environ={})


def refusal(bind: Bind, guard: Guarded) -> str:
    with pytest.raises(ConfigError) as caught:
        admitted([bind], guard, "upstreams.files.binds")
    ((path, what),) = caught.value.faults
    assert path == "upstreams.files.binds[0]"
    return what


@pytest.mark.parametrize(
    "path",
    [
        "/", "/proc", "/proc/1", "/sys/kernel", "/dev", "/dev/null", "/run", "/boot", "/etc", "/etc/passwd-/..",
        "/root", "/home", "/var", "/var/run", "/tmp", "/var/tmp", "/usr/..",
    ],
)  # fmt: skip
def test_places_of_the_system_are_refused(path: str, guard: Guarded) -> None:
    if not os.path.exists(path):
        pytest.skip(f"{path} is not on this system")

    assert refusal(Bind(Path(path), "/in/box"), guard)


@pytest.mark.parametrize("path", [".", ".ssh", ".ssh/id_ed25519", ".config", ".config/gh", ".local"])
def test_credentials_and_homes_are_refused(path: str, home: Path, guard: Guarded) -> None:
    assert "person" in refusal(Bind(home / path), guard)


@pytest.mark.parametrize("path", ["gate/.interlock", "gate/interlock.toml", "gate", "."])
def test_what_is_the_gateways_own_is_refused_and_so_is_what_holds_it(path: str, tmp_path: Path, guard: Guarded) -> None:
    assert str(tmp_path) in refusal(Bind(tmp_path / path), guard)


def test_what_lies_beside_secrets_is_shown(home: Path, tmp_path: Path, guard: Guarded) -> None:
    binds = (Bind(tmp_path / "srv/data"), Bind(home / "projects/data", "/data", writable=True))

    shown = admitted(binds, guard, "binds")

    assert shown == (
        Bind(tmp_path / "srv/data", str(tmp_path / "srv/data")),
        Bind(home / "projects/data", "/data", writable=True),
    )


def test_link_is_judged_by_where_it_leads(home: Path, tmp_path: Path, guard: Guarded) -> None:
    (tmp_path / "srv/link").symlink_to(home / ".ssh")
    (tmp_path / "srv/good").symlink_to(tmp_path / "srv/data")

    what = refusal(Bind(tmp_path / "srv/link"), guard)
    (shown,) = admitted([Bind(tmp_path / "srv/good")], guard, "binds")

    assert f"(which is {home}/.ssh)" in what
    assert (shown.source, shown.place) == (tmp_path / "srv/data", str(tmp_path / "srv/good"))


def test_link_to_the_gateways_files_does_not_hide_them(tmp_path: Path, home: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "real")
    guard = guarded({tmp_path / "state": "the gateway's state"}, {}, homes=[home], environ={})

    assert "the gateway's state" in refusal(Bind(tmp_path / "real"), guard)


def test_hard_link_to_a_secret_is_that_secret(home: Path, tmp_path: Path, guard: Guarded) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    (tmp_path / "srv/innocent").hardlink_to(secret)
    guard = guarded({secret: "upstreams.a.env.TOKEN"}, {}, homes=[home], environ={})

    assert f"another name of {secret}" in refusal(Bind(tmp_path / "srv/innocent"), guard)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_second_mount_of_a_secret_place_is_that_place(tmp_path: Path) -> None:
    script = f"""
import ctypes, os, sys
sys.path.insert(0, {os.getcwd()!r})
from pathlib import Path
from gateway.errors import ConfigError
from sandboxes.covers import admitted
from sandboxes.guarded import guarded
from sandboxes.spec import Bind
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x20000) == 0 and libc.mount(b"none", b"/", None, ctypes.c_ulong(16384 | 1 << 18), None) == 0
base = Path({str(tmp_path)!r})
for name in ("state/keys", "alias", "outer", "pseudo/proc"):
    (base / name).mkdir(parents=True)
for source, place, kind in ((base / "state", base / "alias", None), (base, base / "outer", None)):
    assert libc.mount(bytes(source), bytes(place), None, ctypes.c_ulong(4096), None) == 0
assert libc.mount(b"proc", bytes(base / "pseudo/proc"), b"proc", ctypes.c_ulong(0), None) == 0
guard = guarded({{base / "state": "the gateway's state"}}, {{}}, homes=[], environ={{}})
for name in ("alias", "alias/keys", "outer", "pseudo"):
    try:
        admitted([Bind(base / name)], guard, "binds")
    except ConfigError as error:
        print(name, error)
"""
    import subprocess  # noqa: PLC0415

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["alias", "alias/keys", "outer", "pseudo"]
    assert "another name of" in lines[0]
    assert "holds a mount of proc" in lines[3]


def test_socket_is_refused(tmp_path: Path, guard: Guarded) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "srv/s"))

        assert "is a socket" in refusal(Bind(tmp_path / "srv/s"), guard)


def test_directory_in_which_somebody_listens_is_refused(tmp_path: Path, guard: Guarded) -> None:
    (tmp_path / "srv/link").symlink_to("data")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "srv/link/a socket"))

        what = refusal(Bind(tmp_path / "srv"), guard)
    after = admitted([Bind(tmp_path / "srv")], guard, "binds")

    assert f"holds the socket {tmp_path}/srv/data/a socket of a running program" in what
    assert after


def test_fifo_is_refused(tmp_path: Path, guard: Guarded) -> None:
    os.mkfifo(tmp_path / "srv/pipe")

    assert "a pipe" in refusal(Bind(tmp_path / "srv/pipe"), guard)


def test_what_is_not_there_is_said(tmp_path: Path, guard: Guarded) -> None:
    assert "no such file" in refusal(Bind(tmp_path / "srv/nothing"), guard)


def test_agent_socket_of_the_environment_is_refused(tmp_path: Path, home: Path) -> None:
    (tmp_path / "agent").mkdir()
    guard = guarded({}, {}, homes=[home], environ={"SSH_AUTH_SOCK": str(tmp_path / "agent/sock"), "NETRC": "x"})

    assert "$SSH_AUTH_SOCK" in refusal(Bind(tmp_path / "agent"), guard)


@pytest.mark.parametrize("path", ["/usr/share", "/usr", "/etc/alternatives", sys.prefix])
def test_what_the_host_runs_is_never_writable(path: str, guard: Guarded) -> None:
    if not os.path.exists(path):
        pytest.skip(f"{path} is not on this system")

    assert "must not be writable" in refusal(Bind(Path(path), "/in/box", writable=True), guard)


@pytest.mark.parametrize("path", ["home/.local/bin", "gate/environments"])
def test_what_a_person_or_the_gateway_follows_may_be_read_but_not_written(
    path: str, tmp_path: Path, guard: Guarded
) -> None:
    assert admitted([Bind(tmp_path / path)], guard, "binds")
    assert "must not be writable" in refusal(Bind(tmp_path / path, writable=True), guard)


def test_caches_may_be_written(home: Path, guard: Guarded) -> None:
    assert admitted([Bind(home / ".cache/tool", writable=True)], guard, "binds")


def test_path_of_the_gateways_commands_is_not_writable(tmp_path: Path, home: Path) -> None:
    (tmp_path / "tools/bin").mkdir(parents=True)
    guard = guarded({}, {}, homes=[home], environ={"PATH": f"{tmp_path}/tools/bin:relative"})

    assert "must not be writable" in refusal(Bind(tmp_path / "tools", writable=True), guard)


def test_writable_bind_cannot_choose_what_another_shows(tmp_path: Path, guard: Guarded) -> None:
    outer, inner = Bind(tmp_path / "srv", "/a", writable=True), Bind(tmp_path / "srv/data", "/b")

    for pair in ((outer, inner), (inner, outer)):
        with pytest.raises(ConfigError, match="bound writable"):
            admitted(pair, guard, "binds")


def test_two_binds_at_one_place_are_refused(tmp_path: Path, guard: Guarded) -> None:
    with pytest.raises(ConfigError, match=r"binds\[1\]: /a is bound twice"):
        admitted([Bind(tmp_path / "srv", "/a"), Bind(tmp_path / "srv/data", "/a")], guard, "binds")


def test_every_fault_is_said_at_once(guard: Guarded) -> None:
    with pytest.raises(ConfigError) as caught:
        admitted([Bind(Path("/")), Bind(Path("/proc"), "/p"), Bind(Path("/nowhere"))], guard, "binds")

    assert [path for path, _ in caught.value.faults] == ["binds[0]", "binds[1]", "binds[2]"]


def test_homes_of_this_machine_are_known() -> None:
    found = people()

    assert Path("/root") in found
    assert Path("/") not in found
    assert Path.home() in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/data", Bind(Path("/srv/data"))),
        ("/srv/data:ro", Bind(Path("/srv/data"))),
        ("/srv/data:rw", Bind(Path("/srv/data"), "", writable=True)),
        ("/srv/a:/in/box", Bind(Path("/srv/a"), "/in/box")),
        ("/srv/a:/in/box:rw", Bind(Path("/srv/a"), "/in/box", writable=True)),
        ("data/../x", Bind(Path("/base/x"))),
    ],
)
def test_bind_is_read_from_its_text(text: str, expected: Bind) -> None:
    assert bind_of(text, Path("/base")) == expected


@pytest.mark.parametrize("text", ["", ":", "/a:b", "/a:/b:rx", "/a:/b:/c", "/a\0b"])
def test_senseless_text_is_no_bind(text: str) -> None:
    with pytest.raises(ValueError, match="write it as"):
        bind_of(text, Path("/base"))


def test_home_of_nobody_is_said() -> None:
    with pytest.raises(ValueError, match="there is nobody of that name"):
        bind_of("~no-such-user/data", Path("/base"))


@pytest.mark.parametrize(
    "place",
    ["/", "//x", "/a/../b", "/a/", "/usr/bin/python3", "/bin", "/proc/x", "/etc", "/tmp", "/workspace", "/run/x", "x"],
)
def test_place_that_a_box_has_of_its_own_is_refused(place: str) -> None:
    assert place_fault(Bind(Path("/srv"), place))


@pytest.mark.parametrize("place", ["/data", "/workspace/data", "/etc/tool.conf", "/usrlocal", "/home/x"])
def test_other_places_are_free(place: str) -> None:
    assert place_fault(Bind(Path("/srv"), place)) == ""


@given(st.lists(st.text(st.sampled_from("/.:rwoa~\0é"), max_size=20), max_size=3))
def test_no_text_shows_more_than_it_should(texts: list[str]) -> None:
    guard = guarded({Path("/secret"): "a secret"}, {}, homes=[Path("/home/ana")], environ={})

    with suppress(ConfigError, ValueError, RuntimeError):
        for bind in admitted([bind_of(text, Path("/proc/self")) for text in texts], guard, "binds"):
            assert not Path("/home/ana/.ssh").is_relative_to(bind.source)
            assert not bind.source.is_relative_to("/proc")

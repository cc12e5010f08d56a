"""What has no place in a box is refused before the box is built, in the same words by every driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import SandboxFailure
from sandboxes.driver import Driver
from sandboxes.placing import checked
from sandboxes.spec import Bind, BoxSpec
from tests.sandboxes.drivers import DRIVERS
from tests.sandboxes.places import a_place, output_of


def spec(**options: object) -> BoxSpec:
    script = "pwd; cat /data/sub/w /etc/mine/w /etc/single /run/mine/w 2>/dev/null; echo"
    return BoxSpec("a box", ("/bin/sh", "-c", script), egress=False, **options)  # type: ignore[arg-type]  # each test knows


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Directories `a` with `sub` and the file `f`, and `b` with the file `w`."""
    (tmp_path / "a" / "sub").mkdir(parents=True)
    (tmp_path / "a" / "f").write_text("f")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "w").write_text("w")
    return tmp_path


@pytest.fixture(params=["bubblewrap", "gvisor"])
async def driver(request: pytest.FixtureRequest) -> Driver:
    made = DRIVERS[request.param].make()
    found = await made.probe()
    if not found.ok:
        pytest.skip(f"{made.name}: {found.reason}; {found.remedy}")
    return made


def refusals(tree: Path) -> list[tuple[BoxSpec, str]]:
    a, b = tree / "a", tree / "b"
    return [
        (BoxSpec("x", ()), "has no command"),
        (spec(binds=(Bind(a, "/data"),), cwd="/data/no"), f"its directory '/data/no' is none in '{a}'"),
        (spec(binds=(Bind(a, "/data"),), cwd="/data/f"), "its directory '/data/f' is none in"),
        (spec(cwd="/workspace/no"), "its directory '/workspace/no' is not in the box; begin in '/workspace'"),
        (spec(cwd="/srv"), "its directory '/srv' is not in the box"),
        (spec(cwd="//x"), "'//x' is no absolute path"),
        (spec(cwd="relative"), "'relative' is no absolute path"),
        (spec(binds=(Bind(a, "/data"), Bind(b, "/data/no"))), f"nothing can be mounted at '/data/no': '{a}'"),
        (spec(binds=(Bind(a, "/data", writable=True), Bind(b, "/data/no"))), "nothing can be mounted at '/data/no'"),
        (spec(binds=(Bind(a, "/data"), Bind(b, "/data/f"))), "a directory cannot be mounted at '/data/f'"),
        (spec(binds=(Bind(a, "/data"), Bind(b / "w", "/data/sub"))), "a file cannot be mounted at '/data/sub'"),
        (spec(binds=(Bind(a, "/data"),), files={"/data/new": b""}), "nothing can be mounted at '/data/new'"),
        (spec(binds=(Bind(a, "/usr/share/no/such"),)), "nothing can be mounted at '/usr/share/no/such': '/usr'"),
        (spec(files={"/bin/tool": b""}), "'/bin/tool' is behind the link /bin -> usr/bin"),
        (spec(files={"/etc/ssl/certs/mine.pem": b""}), "nothing can be mounted at '/etc/ssl/certs/mine.pem'"),
        (spec(binds=(Bind(a, "/workspace"),)), "nothing can be put at '/workspace'"),
        (spec(binds=(Bind(a, "/dev/shm/x"),)), "nothing can be put at '/dev/shm/x'"),
        (spec(binds=(Bind(a, "/sys"),)), "nothing can be put at '/sys'"),
        (spec(files={"/run/egress.sock": b""}), "nothing can be put at '/run/egress.sock'"),
        (spec(binds=(Bind(a, "/data\0"),)), "no absolute path"),
    ]  # fmt: skip


def test_what_has_no_place_is_refused_by_name(tree: Path) -> None:
    for wanted, why in refusals(tree):
        with pytest.raises(SandboxFailure) as refused:
            checked(wanted)
        assert why in str(refused.value)


async def test_every_driver_asks(driver: Driver, tree: Path) -> None:
    async with a_place(tree / "boxes") as place:
        with pytest.raises(SandboxFailure, match=r"nothing can be mounted at '/data/no'"):
            await driver.start(spec(binds=(Bind(tree / "a", "/data"), Bind(tree / "b", "/data/no"))), place)


async def test_what_has_a_place_is_there(driver: Driver, tree: Path) -> None:
    binds = (
        Bind(tree / "b", "/data/sub"), Bind(tree / "a", "/data"), Bind(tree / "b", "/etc/mine"),
        Bind(tree / "b" / "w", "/etc/single"), Bind(tree / "b", "/run/mine"), Bind(tree / "b", "/workspace/deep/place"),
    )  # fmt: skip

    for cwd in ("/data/sub", "/workspace/deep", "/run/mine", "/etc"):
        async with a_place(tree / "boxes") as place:
            status, output, complaints = await output_of(driver, spec(binds=binds, cwd=cwd), place)

        assert (status, output.decode()) == (0, f"{cwd}\nwwww\n"), complaints


@pytest.mark.parametrize("cwd", ["/", "/tmp", "/usr/lib", "/bin", "/opt", "/opt/deep/place", "/made/by"])
def test_a_program_may_begin_in_any_directory_of_its_box(cwd: str, tree: Path) -> None:
    wanted = spec(cwd=cwd, binds=(Bind(tree / "a", "/opt/deep/place"),), files={"/made/by/file": b""})

    assert checked(wanted) is wanted


def test_places_in_a_base_of_its_own_are_looked_for_there(tmp_path: Path) -> None:
    (tmp_path / "base" / "app").mkdir(parents=True)
    (tmp_path / "base" / "link").symlink_to("/etc")

    assert checked(spec(base=tmp_path / "base", binds=(Bind(tmp_path, "/app"),), cwd="/app"))
    with pytest.raises(SandboxFailure, match="behind the link /link -> /etc"):
        checked(spec(base=tmp_path / "base", files={"/link/cron.d/mine": b"x"}))
    with pytest.raises(SandboxFailure, match="has nothing there"):
        checked(spec(base=tmp_path / "base", files={"/app/mine": b"x"}))
    with pytest.raises(SandboxFailure, match="cannot be read"):
        checked(spec(base=tmp_path / "none", files={"/app/mine": b"x"}))

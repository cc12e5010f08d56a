"""Environments are read whole or refused whole, and the same description has the same digest everywhere."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from importlib import util
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.boxes import Level
from gateway.config import secrets
from gateway.errors import ConfigError, SandboxFailure
from sandboxes.ceiling import Ceiling
from sandboxes.environments import Described, Description, chosen, load
from sandboxes.guarded import Guarded, guarded
from sandboxes.packages import PackageCache, bind_of_packages, equipped, pinned
from sandboxes.rootfs import Python, python_of, tree_digest
from sandboxes.spec import MIB, Bind, BoxSpec, Limits

NOBODY = guarded({}, {}, homes=[], environ={})

FULL = """
description = "Tables and charts"
level = "gvisor"
warm = true
visible_to = ["analyst"]
packages = ["Num_Py==2.1.0", "six==1.17.0"]
egress = ["Example.org", "*.example.org:8443"]
binds = ["data:/data"]
env = { MODE = "fast" }
secrets = { TOKEN = "file:token", OTHER = "env:OTHER" }

[files]
"/etc/tool.conf" = { text = "a = 1\\n" }
"/opt/tool/model.bin" = { file = "model.bin" }

[limits]
memory_mb = 256
cpus = 0.5
processes = 32
file_mb = 8
tmp_mb = 16
work_mb = 32
open_files = 128
wall_s = 5
idle_s = 60
"""


def written(directory: Path, text: str, name: str = "full") -> Path:
    (directory / "data").mkdir(parents=True, exist_ok=True)
    (directory / "model.bin").write_bytes(b"\x00model")
    (directory / f"{name}.toml").write_text(text)
    return directory


def faults(directory: Path, guard: Guarded = NOBODY) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(directory, secrets, guard)
    return [f"{path}: {what}" for path, what in caught.value.faults]


def test_every_key_arrives_where_it_belongs(tmp_path: Path) -> None:
    described = load(written(tmp_path, FULL), secrets, NOBODY)["full"]

    assert described.spec.limits == Limits(256 * MIB, 0.5, 32, 8 * MIB, 16 * MIB, 32 * MIB, 128)
    assert described.spec.files == {"/etc/tool.conf": b"a = 1\n", "/opt/tool/model.bin": b"\x00model"}
    assert described.spec.binds == (Bind(tmp_path / "data", "/data"),)
    assert described.spec.env == {"MODE": "fast"}
    assert described.spec.egress
    assert (described.level, described.visible_to) == (Level.GVISOR, frozenset({"analyst"}))
    assert described.warm
    assert (described.wall_s, described.idle_s, described.description) == (5, 60, "Tables and charts")
    assert described.secrets == {"TOKEN": f"file:{tmp_path / 'token'}", "OTHER": "env:OTHER"}
    assert [pin.text for pin in described.packages] == ["num-py==2.1.0", "six==1.17.0"]
    assert described.egress.texts == ("*.example.org:8443", "example.org:443")


def test_secrets_are_in_no_box_description(tmp_path: Path) -> None:
    described = load(written(tmp_path, FULL), secrets, NOBODY)["full"]

    assert not described.spec.secrets
    assert "TOKEN" not in described.spec.env


def test_digest_does_not_depend_on_the_machine_or_on_how_it_is_written(tmp_path: Path) -> None:
    laptop = load(written(tmp_path / "laptop", FULL), secrets, NOBODY)["full"]
    server = load(written(tmp_path / "server", f"# the same\n{FULL}".replace("Num_Py", "num-py")), secrets, NOBODY)

    assert laptop.digest == server["full"].digest
    assert laptop.digest.startswith("sha256:")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('level = "gvisor"', 'level = "vm"'), ('["analyst"]', '["other"]'), ("2.1.0", "2.1.1"),
        ('"Example.org"', '"example.net"'), ('"data:/data"', '"data:/data:rw"'), ("fast", "slow"),
        ("env:OTHER", "env:ANOTHER"), ("a = 1", "a = 2"), ("memory_mb = 256", "memory_mb = 257"),
        ("wall_s = 5", "wall_s = 6"),
        ("/opt/tool", "/opt/tools"), ("warm = true", "warm = false"),
    ],
)  # fmt: skip
def test_every_change_of_substance_changes_the_digest(old: str, new: str, tmp_path: Path) -> None:
    before = load(written(tmp_path, FULL), secrets, NOBODY)["full"].digest

    after = load(written(tmp_path, FULL.replace(old, new)), secrets, NOBODY)["full"].digest

    assert before != after


def test_content_of_a_file_beside_it_counts(tmp_path: Path) -> None:
    before = load(written(tmp_path, FULL), secrets, NOBODY)["full"].digest
    (tmp_path / "model.bin").write_bytes(b"other")

    assert load(tmp_path, secrets, NOBODY)["full"].digest != before


def test_there_is_always_a_default(tmp_path: Path) -> None:
    found = load(tmp_path / "none", secrets, NOBODY)

    assert list(found) == ["default"]
    assert found["default"].built_in
    assert found["default"].spec.egress
    assert found["default"].spec.base is None
    assert chosen(found, "") is found["default"]


def test_default_may_be_described(tmp_path: Path) -> None:
    found = load(written(tmp_path, 'level = "vm"', "default"), secrets, NOBODY)

    assert found["default"].level is Level.VM
    assert not found["default"].built_in
    assert not found["default"].spec.egress


def test_default_of_an_empty_file_is_not_the_built_in_one(tmp_path: Path) -> None:
    built_in = load(tmp_path, secrets, NOBODY)["default"]

    described = load(written(tmp_path, "", "default"), secrets, NOBODY)["default"]

    assert described.digest != built_in.digest


def test_unknown_name_is_answered_with_those_there_are(tmp_path: Path) -> None:
    found = load(written(tmp_path, "", "data"), secrets, NOBODY)

    with pytest.raises(
        ConfigError, match=r"upstreams\.x\.environment: there is no environment 'dta'; there are: data, de"
    ):
        chosen(found, "dta", "upstreams.x.environment")


def test_all_faults_of_all_files_are_said_at_once(tmp_path: Path) -> None:
    written(tmp_path, 'levle = "vm"\n[limits]\nmemory = 1\ncpus = "x"\n[files."/a"]\ntxt = "x"\n', "one")
    written(tmp_path, 'env = 3\nbinds = "x"\npackages = ["numpy"]\negress = ["*.com:443"]\nlevel = "none"\n', "two")
    written(tmp_path, "a = ", "three")
    (tmp_path / "Bad Name.toml").write_text("")
    (tmp_path / "four.toml").write_bytes(b"\xff")

    said = faults(tmp_path)

    assert [line.partition(": ")[0] for line in said] == [
        "Bad Name.toml", "four.toml", "one.toml", "one.toml", "one.toml", "one.toml", "three.toml",
        "two.toml", "two.toml", "two.toml", "two.toml", "two.toml",
    ]  # fmt: skip
    text = "\n".join(said)
    assert "one.toml: levle: unknown key; did you mean 'level'?" in text
    assert "one.toml: limits.memory: unknown key; did you mean 'memory_mb'?" in text
    assert "one.toml: limits.cpus: must be a valid number" in text
    assert "one.toml: files./a.txt: unknown key; did you mean 'text'?" in text
    assert "two.toml: packages: 'numpy': pin one version exactly" in text
    assert "two.toml: egress: '*.com:443': *. stands before a name with a dot" in text
    assert "two.toml: binds: must be a list" in text
    assert "two.toml: env: must be a table" in text
    assert "two.toml: level: must be 'process'" in text


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('env = { API_TOKEN = "x" }', "env.API_TOKEN: is a secret: put it under [secrets]"),
        ('env = { MODE = "env:MODE" }', "env.MODE: is a secret"),
        ('secrets = { TOKEN = "hunter2" }', "secrets.TOKEN: must be a reference"),
        ('env = { A = "1" }\nsecrets = { A = "env:A" }', "secrets.A: is in [env] too"),
        ('env = { LD_PRELOAD = "/workspace/x.so" }', "LD_PRELOAD: would act on what starts the box too"),
        ('env = { "A=B" = "1" }', "a variable is letters, digits and _"),
        ('env = { A = "\\u0000" }', "holds no NUL"),
        ('files = { "/proc/x" = { text = "" } }', "files: '/proc/x' is something that each box has of its own"),
        ('files = { "x" = { text = "" } }', "files: 'x' is no place in a box"),
        ('files = { "/x" = { } }', "files./x: needs either text or file"),
        ('files = { "/x" = { text = "", file = "a" } }', "files./x: needs either text or file"),
        ('files = { "/x" = { file = "../outside" } }', "files./x: ../outside is no file in"),
        ('files = { "/x" = { file = "none" } }', "files./x: none is no file in"),
        ('files = { "/x" = { file = "leak" } }', "files./x: leak is no file in"),
        ('binds = ["/proc"]', "binds[0]: '/proc' is something that each box has of its own"),
        ('binds = ["/proc:/p", "/nowhere"]', "binds[0]: /proc is the kernel's view"),
        ('binds = ["a:b"]', "binds: 'a:b': write it as"),
        ('base = "/"', "base: / is not the root of a system"),
        ('base = "data"', "is not the root of a system"),
        ('packages = ["a==1", "A==2"]', "packages: a is pinned twice"),
        ('packages = ["a==1", "b==2 --hash=sha256:' + "0" * 64 + '"]', "either every package has hashes or none"),
        ('packages = ["--index-url=x"]', "pin one version exactly"),
        ('packages = ["a==1\\n--index-url=x"]', "pin one version exactly"),
        ('egress = ["[::1"]', "egress: '[::1': "),
        ('egress = ["*.1.2.3.4:443"]', "egress: '*.1.2.3.4:443': *. stands before"),
        ('visible_to = [""]', "visible_to: must be the names of roles"),
    ],
)
def test_fault_says_where_it_is_and_what_to_do(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    written(tmp_path / "environments", text, "one")
    (tmp_path / "environments/leak").symlink_to(tmp_path / "outside")

    said = faults(tmp_path / "environments")

    assert any(what in line for line in said), said
    assert all(line.startswith("one.toml: ") for line in said)
    assert "hunter2" not in "".join(said)


def test_files_of_absurd_size_are_refused(tmp_path: Path) -> None:
    written(tmp_path, 'files = { "/x" = { file = "model.bin" } }', "one")
    (tmp_path / "model.bin").write_bytes(b"x" * (4 * MIB + 1))
    (tmp_path / "two.toml").write_text("#" * (MIB + 1))

    said = faults(tmp_path)

    assert "one.toml: files./x" in said[0]
    assert all("is larger than" in line for line in said)


def test_directory_that_cannot_be_listed_is_said(tmp_path: Path) -> None:
    (tmp_path / "environments").write_text("")

    assert str(tmp_path / "environments") in faults(tmp_path / "environments")[0]


def test_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "one.toml").mkdir()

    assert "one.toml: " in faults(tmp_path)[0]


def test_base_is_a_root_file_system_known_by_its_content(tmp_path: Path) -> None:
    roots = []
    for name in ("a", "b"):
        (tmp_path / name / "root/usr/bin").mkdir(parents=True)
        (tmp_path / name / "root/usr/bin/tool").write_text("x")
        (tmp_path / name / "root/bin").symlink_to("usr/bin")
        roots.append(load(written(tmp_path / name, 'base = "root"', "one"), secrets, NOBODY)["one"])

    changed = tmp_path / "b/root/usr/bin/tool"
    changed.chmod(0o755)
    again = load(tmp_path / "b", secrets, NOBODY)["one"]

    assert roots[0].spec.base == tmp_path / "a/root"
    assert roots[0].digest == roots[1].digest != again.digest


def test_base_that_holds_the_gateways_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root/usr").mkdir(parents=True)
    guard = guarded({tmp_path / "root/state": "the gateway's state"}, {}, homes=[], environ={})

    assert "the gateway's state" in faults(written(tmp_path, 'base = "root"'), guard)[0]


def test_base_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"base: .* cannot be read"):
        tree_digest(tmp_path / "none")


def test_python_of_a_base_is_told_by_its_links_alone(tmp_path: Path) -> None:
    binaries = tmp_path / "usr/bin"
    binaries.mkdir(parents=True)
    assert python_of(tmp_path) is None
    (binaries / "python3.12").write_text("")
    (binaries / "python3").symlink_to("/usr/bin/python3.12")

    assert python_of(tmp_path) == Python("/usr/bin/python3", "3.12")


def test_python_that_is_a_loop_of_links_is_none(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/python3").symlink_to("other")
    (tmp_path / "usr/bin/other").symlink_to("python3")

    assert python_of(tmp_path) is None


def test_ceiling_is_met_by_host_and_port() -> None:
    ceiling = Ceiling.of(["example.org", "*.example.org:8443", "[2001:db8::1]:80"])

    assert ceiling.allows("example.org", 443)
    assert ceiling.allows("a.b.example.org", 8443)
    assert ceiling.allows("2001:db8::1", 80)
    assert not ceiling.allows("example.org", 80)
    assert not ceiling.allows("a.example.org", 443)
    assert not ceiling.allows("example.org", 8443)
    assert not ceiling.allows("notexample.org", 8443)
    assert not Ceiling().allows("example.org", 443)


@given(st.text(max_size=60))
@settings(max_examples=50)
def test_no_text_does_worse_than_a_configuration_error(text: str) -> None:
    with suppress(ValueError):
        Description.model_validate({"egress": [text], "packages": [text], "binds": [text], "env": {text: text}})
    with suppress(ValueError):
        Ceiling.of([text])


def test_documented_keys_are_the_real_ones_with_the_real_defaults() -> None:
    import re  # noqa: PLC0415

    from sandboxes import environments  # noqa: PLC0415

    page = Path(environments.__file__).with_suffix(".md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| `(.+?)` \|", page, re.MULTILINE))

    keys = {name: field.default for name, field in Description.model_fields.items() if name != "limits"}
    keys |= {f"limits.{name}": field.default for name, field in environments.Limits.model_fields.items()}
    assert {name: str(value) for name, value in rows.items()} == {name: toml(value) for name, value in keys.items()}


def toml(value: object) -> str:
    if isinstance(value, tuple | bool):
        return "[]" if value == () else str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float | int) else "{}"


def wheel(directory: Path, name: str, version: str, requires: str = "") -> None:
    info = f"{name}-{version}.dist-info"
    directory.mkdir(exist_ok=True)
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        need = f"Requires-Dist: {requires}\n" if requires else ""
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{need}")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def cache(tmp_path: Path) -> PackageCache:
    wheel(tmp_path / "wheels", "alpha", "1.0")
    wheel(tmp_path / "wheels", "beta", "2.0", "alpha")
    environ = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels"), "GATEWAY_SECRET": "x"}
    return PackageCache(tmp_path / "cache", environ)


def quietly(_: str) -> None:
    """Nobody listens to the progress."""


PYTHON = Python("/usr/bin/python3", "3.11")


@pytest.mark.slow
async def test_packages_are_installed_once(cache: PackageCache) -> None:
    said: list[str] = []
    pins = pinned(["beta==2.0", "alpha==1.0"])

    with anyio.fail_after(120):
        place = await cache.installed("e", pins, PYTHON, said.append)
        again = await cache.installed("e", pins, PYTHON, said.append)

    assert (place / "alpha.py").read_text() == "VERSION = '1.0'\n"
    assert (place / "beta.py").stat().st_mode & 0o777 == 0o444
    assert place == again == bind_of_packages(place).source
    assert sum("installing" in line for line in said) == 1
    assert any("beta" in line for line in said[1:])
    assert {path.suffix for path in cache.directory.iterdir()} == {"", ".lock"}


@pytest.mark.slow
async def test_two_at_once_install_once(cache: PackageCache) -> None:
    said: list[str] = []
    pins = pinned(["alpha==1.0"])

    with anyio.fail_after(120):
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(cache.installed, "e", pins, PYTHON, said.append)

    assert sum("installing" in line for line in said) == 1


@pytest.mark.slow
async def test_box_is_equipped_with_the_packages_on_its_path(cache: PackageCache, tmp_path: Path) -> None:
    (tmp_path / "root/usr/bin").mkdir(parents=True)
    (tmp_path / "root/usr/bin/python3.11").write_text("")
    (tmp_path / "root/usr/bin/python3").symlink_to("python3.11")
    spec = BoxSpec("e", (), env={"PYTHONPATH": "/mine"}, base=tmp_path / "root")

    with anyio.fail_after(120):
        equipment = await equipped(spec, pinned(["alpha==1.0"]), cache, quietly)

    assert equipment.env == {"PYTHONPATH": "/opt/packages:/mine"}
    assert [bind.place for bind in equipment.binds] == ["/opt/packages"]
    assert not equipment.binds[0].writable


async def test_box_without_packages_stays_as_it_is(cache: PackageCache) -> None:
    spec = BoxSpec("e", ())

    assert await equipped(spec, (), cache, quietly) is spec


async def test_base_without_python_has_no_packages(cache: PackageCache, tmp_path: Path) -> None:
    with pytest.raises(SandboxFailure, match="its base has no Python"):
        await equipped(BoxSpec("e", (), base=tmp_path), pinned(["alpha==1.0"]), cache, quietly)


@pytest.mark.skipif(util.find_spec("pip") is not None, reason="this Python has a pip of its own")
async def test_missing_pip_is_said(cache: PackageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with anyio.fail_after(30), pytest.raises(SandboxFailure, match="-m ensurepip"):
        await cache.installed("e", pinned(["alpha==1.0"]), PYTHON, quietly)


@pytest.mark.slow
async def test_package_that_nobody_pinned_is_refused_with_its_pin(cache: PackageCache) -> None:
    with anyio.fail_after(120), pytest.raises(SandboxFailure, match=r"have to be pinned too: add alpha==1\.0"):
        await cache.installed("e", pinned(["beta==2.0"]), PYTHON, quietly)

    assert not [path for path in cache.directory.iterdir() if path.is_dir()]


@pytest.mark.slow
async def test_package_that_is_not_there_says_so(cache: PackageCache) -> None:
    with anyio.fail_after(120), pytest.raises(SandboxFailure, match="only wheels are taken"):
        await cache.installed("e", pinned(["gamma==2.0"]), PYTHON, quietly)


@pytest.mark.slow
async def test_wheel_with_another_hash_is_refused(cache: PackageCache) -> None:
    pins = pinned(["alpha==1.0 --hash=sha256:" + "0" * 64])

    with anyio.fail_after(120), pytest.raises(SandboxFailure, match=r"(?i)hash"):
        await cache.installed("e", pins, PYTHON, quietly)


@pytest.mark.slow
async def test_index_that_cannot_be_reached_is_said(tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "cache", {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"})

    with anyio.fail_after(120), pytest.raises(SandboxFailure, match="index cannot be reached"):
        await cache.installed("e", pinned(["alpha==1.0"]), PYTHON, quietly)


async def test_installation_that_takes_too_long_is_given_up(cache: PackageCache) -> None:
    with anyio.fail_after(30), pytest.raises(SandboxFailure, match=r"were not installed in 0\.05 s"):
        await cache.installed("e", pinned(["alpha==1.0"]), PYTHON, quietly, within_s=0.05)

    assert not [path for path in cache.directory.iterdir() if path.is_dir()]


def test_place_of_packages_depends_on_pins_and_python(cache: PackageCache) -> None:
    pins = pinned(["alpha==1.0", "beta==2.0"])

    places = {
        cache.place_of(pins, PYTHON),
        cache.place_of(pinned(["beta==2.0", "Alpha==1.0"]), PYTHON),
        cache.place_of(pins[:1], PYTHON),
        cache.place_of(pins, Python("/usr/bin/python3", "3.12")),
    }

    assert len(places) == 3


def test_described_is_a_value() -> None:
    assert Described.__hash__ is not None

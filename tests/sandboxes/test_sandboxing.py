"""What configuration means for boxes: what they may see, what they are given, and what only the host keeps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from gateway.app import boxes as app
from gateway.app.boxes import Sandboxing, faults_of, guard_of, isolation_fault, open_sandboxing
from gateway.boxes import Level, Program
from gateway.config import Settings, load, secrets
from gateway.errors import ConfigError, IsolationUnavailable, PolicyDenied
from gateway.ports import Exchange, Upstream
from gateway.types import Call, Identity, Result
from sandboxes import environments
from sandboxes.covers import admitted
from sandboxes.driver import Probe
from sandboxes.guarded import Guarded
from sandboxes.ledger import Ledger
from sandboxes.spec import Bind
from tests.sandboxes.host_driver import HostDriver
from tests.sandboxes.test_boxes import said

SHELL = 'command = ["/bin/sh", "-c", "read line; env; cat >/dev/null"]'


def configured(tmp_path: Path, text: str, **described: str) -> Settings:
    (tmp_path / "environments").mkdir(exist_ok=True)
    for name, description in described.items():
        (tmp_path / "environments" / f"{name}.toml").write_text(description)
    path = tmp_path / "interlock.toml"
    path.write_text(text)
    return load(path)


async def no_path(call: Call, credentials: Identity, exchange: Exchange, *, by: Upstream | None = None) -> Result:
    raise PolicyDenied(f"{call.resource.type} {call.resource.id} of {call.resource.upstream}")


@asynccontextmanager
async def opened(settings: Settings, monkeypatch: pytest.MonkeyPatch, driver: HostDriver) -> AsyncIterator[Sandboxing]:
    monkeypatch.setattr(app, "drivers_of", lambda _: (driver,))
    with anyio.fail_after(30):
        async with open_sandboxing(settings, no_path, lambda: "n1") as sandboxing:
            yield sandboxing


def refused(guard: Guarded, source: Path, *, writable: bool = False) -> str:
    try:
        admitted([Bind(source, "/in/box", writable)], guard, "binds")
    except ConfigError as error:
        return str(error)
    return ""


# -- What no box may see --


def test_state_configuration_and_all_that_holds_a_secret_is_sealed(tmp_path: Path) -> None:
    for name in ("keys", "other", "db", "policies", "plain", ".interlock"):
        (tmp_path / name).mkdir()
    for name in ("keys/token", "keys/header", "other/dsn", "db/x.sqlite", "db/x.sqlite-wal", "keys/env", "plain/f"):
        (tmp_path / name).write_text("s3cret")
    settings = configured(
        tmp_path,
        f"""
        [state]
        url = "sqlite+aiosqlite:///{tmp_path}/db/x.sqlite"
        [policy]
        path = "policies"
        [upstreams.a]
        type = "mcp"
        command = ["sh"]
        env = {{ TOKEN = "file:keys/token" }}
        [upstreams.b]
        type = "mcp"
        url = "http://127.0.0.1:1/"
        headers = {{ Authorization = "Bearer file:keys/header" }}
        """,
        data='secrets = { KEY = "file:../keys/env" }\n',
    )
    described = environments.load(app.environments_in(settings), secrets, guard_of(settings))
    guard = guard_of(settings, described)

    sealed = ("keys/token", "keys/header", "keys/env", "keys", "db", "db/x.sqlite", "db/x.sqlite-wal", ".interlock", "")
    assert {name: bool(refused(guard, tmp_path / name)) for name in sealed} == dict.fromkeys(sealed, True)
    assert not refused(guard, tmp_path / "plain", writable=True)
    assert "interlock.toml" in refused(guard, tmp_path / "interlock.toml")
    assert not refused(guard, tmp_path / "policies")
    assert "the policies" in refused(guard, tmp_path / "policies", writable=True)
    assert "the environments" in refused(guard, tmp_path / "environments", writable=True)


def test_gateway_without_a_file_guards_its_state() -> None:
    guard = guard_of(Settings())

    assert Path(".interlock").absolute() in guard.sealed
    assert not any(path.name == "interlock.toml" for path in guard.sealed)


def test_database_elsewhere_than_in_a_file_has_no_file() -> None:
    assert list(app._databases("")) == []
    assert list(app._databases("postgresql+asyncpg://db/x")) == []
    assert list(app._databases("sqlite+aiosqlite://")) == []


def test_no_box_writes_what_runs_on_the_host(tmp_path: Path) -> None:
    (tmp_path / "srv" / "data").mkdir(parents=True)
    (tmp_path / "srv" / "server.py").write_text("")
    text = '[upstreams.a]\ntype = "mcp"\nsandbox = "none"\ncommand = ["python3", "srv/server.py", "--fast"]\n'
    guard = guard_of(configured(tmp_path, text))

    assert "what upstream 'a' runs on the host" in refused(guard, tmp_path / "srv", writable=True)
    assert not refused(guard, tmp_path / "srv")
    assert not refused(guard, tmp_path / "srv" / "data", writable=True)


@pytest.mark.parametrize("by", ["upstream", "environment"])
def test_nothing_is_shown_that_another_box_could_make_a_link(tmp_path: Path, by: str) -> None:
    shared = tmp_path / "shared"
    (shared / "sub").mkdir(parents=True)
    writer = '[upstreams.w]\ntype = "mcp"\ncommand = ["sh"]\nbinds = ["shared:rw"]\n' if by == "upstream" else ""
    reader = '[upstreams.r]\ntype = "mcp"\ncommand = ["sh"]\nbinds = ["shared/sub:/in/box"]\n'
    environments = {} if by == "upstream" else {"w": f'binds = ["{shared}:rw"]\n'}
    settings = configured(tmp_path, writer + reader, **environments)
    whole = configured(tmp_path, (writer + reader).replace("shared/sub", "shared"), **environments)

    (fault,) = faults_of(settings)

    assert fault[0] == "upstreams.r.binds[0]"
    assert "could make this a link to anything" in fault[1]
    assert faults_of(whole) == []


def test_environments_are_looked_at_together(tmp_path: Path) -> None:
    (tmp_path / "shared" / "sub").mkdir(parents=True)
    described = {"w": f'binds = ["{tmp_path}/shared:rw"]\n', "r": f'binds = ["{tmp_path}/shared/sub:/x"]\n'}

    (fault,) = faults_of(configured(tmp_path, "", **described))

    assert fault[0] == "r.toml: binds[0]"


async def test_gateway_does_not_start_with_environments_that_endanger_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared" / "sub").mkdir(parents=True)
    described = {"w": f'binds = ["{tmp_path}/shared:rw"]\n', "r": f'binds = ["{tmp_path}/shared/sub:/x"]\n'}

    with pytest.raises(ConfigError, match="could make this a link"):
        async with opened(configured(tmp_path, "", **described), monkeypatch, HostDriver()):
            pytest.fail("it started")


# -- What a box is given --


async def variables_of(program: Program) -> Mapping[str, str]:
    text = await said(program)
    return {key: value for key, _, value in (line.partition("=") for line in text.decode().splitlines())}


async def test_upstreams_run_in_boxes_and_secrets_are_variables_of_theirs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REAL_TOKEN", "t0ken")
    monkeypatch.setenv("OF_ENVIRONMENT", "k3y")
    monkeypatch.setenv("UNRELATED", "x")
    settings = configured(
        tmp_path,
        f"""
        [upstreams.a]
        type = "mcp"
        {SHELL}
        environment = "data"
        env = {{ TOKEN = "env:REAL_TOKEN", MODE = "upstream's", SHARED = "upstream's", HOST = "env:REAL_TOKEN" }}
        """,
        data='[env]\nMODE = "environment\'s"\nMORE = "m"\nHOST = "h"\n'
        '[secrets]\nKEY = "env:OF_ENVIRONMENT"\nSHARED = "env:OF_ENVIRONMENT"\n',
    )
    driver = HostDriver()
    async with opened(settings, monkeypatch, driver) as sandboxing:
        pipe = sandboxing.pipe_to("a", settings.upstreams["a"])
        found = await variables_of(await pipe.start())
        (living,) = sandboxing.boxes.living

    spec = driver.specs[0]
    assert pipe.clone is None
    assert spec.secrets == {"TOKEN": "t0ken", "HOST": "t0ken", "KEY": "k3y"}
    assert spec.env == {"MODE": "upstream's", "MORE": "m", "SHARED": "upstream's"}
    assert "t0ken" not in repr(spec)
    assert {key: found.get(key) for key in ("TOKEN", "KEY", "MODE", "UNRELATED")} == {
        **{"TOKEN": "t0ken", "KEY": "k3y", "MODE": "upstream's", "UNRELATED": None}
    }
    assert (living.wanted.purpose, living.wanted.spec.label) == ("upstream a", "a")
    assert living.facts.environment == sandboxing.environments["data"].digest


async def test_box_sees_the_program_its_binds_and_starts_where_it_is_told_if_that_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "serve").write_text("#!/bin/sh\nread line; pwd; cat >/dev/null\n")
    (tools / "serve").chmod(0o755)
    section = f'type = "mcp"\ncommand = ["{tools}/serve"]\n'
    settings = configured(
        tmp_path, f'[upstreams.a]\n{section}cwd = "data/deep"\nbinds = ["data:rw"]\n[upstreams.b]\n{section}'
    )
    driver = HostDriver()
    async with opened(settings, monkeypatch, driver) as sandboxing:
        for name, upstream in settings.upstreams.items():
            await sandboxing.pipe_to(name, upstream).start()

    shown, plain = driver.specs
    assert {(bind.place, bind.writable) for bind in shown.binds} == {
        *{(str(tmp_path / "data"), True), (str(tools / "serve"), False)}
    }
    assert shown.cwd == str(tmp_path / "data" / "deep")
    assert plain.cwd == "/workspace"


async def test_level_is_the_strictest_that_anybody_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configured(
        tmp_path,
        f"""
        [upstreams.plain]
        type = "mcp"
        {SHELL}
        [upstreams.strict]
        type = "mcp"
        sandbox = "gvisor"
        {SHELL}
        [upstreams.described]
        type = "mcp"
        environment = "vm"
        {SHELL}
        """,
        vm='level = "vm"\n',
    )
    async with opened(settings, monkeypatch, HostDriver(level=Level.GVISOR)) as sandboxing:
        pipes = {name: sandboxing.pipe_to(name, one) for name, one in settings.upstreams.items()}
        await pipes["plain"].start()
        await pipes["strict"].start()
        with pytest.raises(IsolationUnavailable, match="isolation of level vm is needed"):
            await pipes["described"].start()


async def test_environment_bounds_where_its_boxes_connect_and_the_built_in_one_leaves_it_to_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = f'type = "mcp"\n{SHELL}\n'
    text = f'[upstreams.a]\n{section}[upstreams.b]\n{section}environment = "web"\n'
    settings = configured(
        tmp_path, text + f'[upstreams.c]\n{section}environment = "shut"\n', web='egress = ["x.org"]\n', shut=""
    )
    async with opened(settings, monkeypatch, HostDriver()) as sandboxing:
        for name, upstream in settings.upstreams.items():
            await sandboxing.pipe_to(name, upstream).start()
        built_in, web, shut = (one.wanted for one in sandboxing.boxes.living)

    assert (built_in.ceiling, built_in.spec.egress) == (None, True)
    assert web.ceiling is not None
    assert (web.ceiling.texts, web.spec.egress) == (("x.org:443",), True)
    assert (shut.spec.egress, shut.ceiling is not None) == (False, True)


async def test_upstream_on_the_host_says_so_and_is_in_no_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REAL_TOKEN", "t0ken")
    section = f'[upstreams.a]\ntype = "mcp"\nsandbox = "none"\n{SHELL}\nenv = {{ TOKEN = "env:REAL_TOKEN" }}\n'
    settings = configured(tmp_path, section)
    driver = HostDriver()
    async with opened(settings, monkeypatch, driver) as sandboxing:
        program = await sandboxing.pipe_to("a", settings.upstreams["a"]).start()
        found, facts = await variables_of(program), program.facts
        await program.stop()

    assert (facts.level, found["TOKEN"], driver.specs) == (Level.NONE, "t0ken", [])
    assert "upstream 'a' runs on the host, outside of any sandbox" in caplog.text


async def test_warm_environment_offers_clones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configured(
        tmp_path, f'[upstreams.a]\ntype = "mcp"\n{SHELL}\nenvironment = "warm"\n', warm="warm = true\n"
    )
    driver = HostDriver()

    async def prepare(program: Program) -> Mapping[str, object]:
        return {"era": "legacy"}

    async with opened(settings, monkeypatch, driver) as sandboxing:
        clone = sandboxing.pipe_to("a", settings.upstreams["a"]).clone
        assert clone is not None
        _, state = await clone("k", prepare)

    assert (state, len(driver.thawed)) == ({"era": "legacy"}, 1)


async def test_command_that_will_hardly_work_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "npx").write_text("#!/bin/sh\n")
    (tmp_path / "npx").chmod(0o755)
    settings = configured(tmp_path, f'[upstreams.a]\ntype = "mcp"\ncommand = ["{tmp_path}/npx", "thing"]\n')

    async with opened(settings, monkeypatch, HostDriver()) as sandboxing:
        sandboxing.pipe_to("a", settings.upstreams["a"])

    assert "upstream 'a': npx fetches what it runs when it starts" in caplog.text


async def test_bind_that_is_none_is_a_fault_of_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configured(tmp_path, f'[upstreams.a]\ntype = "mcp"\n{SHELL}\n')
    spoilt = settings.upstreams["a"].model_copy(update={"binds": ("a:b:c",)})

    async with opened(settings, monkeypatch, HostDriver()) as sandboxing:
        with pytest.raises(ConfigError) as caught:
            sandboxing.pipe_to("a", spoilt)

    assert caught.value.faults[0][0] == "upstreams.a.binds[0]"


# -- While it runs --


async def test_secret_that_is_configured_later_is_guarded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "token").write_text("s3cret")
    (tmp_path / ".interlock").mkdir()
    section = f'[upstreams.a]\ntype = "mcp"\n{SHELL}\nbinds = ["later"]\n'
    settings = configured(tmp_path, section)
    async with opened(settings, monkeypatch, HostDriver()) as sandboxing:
        before = sandboxing.pipe_to("a", settings.upstreams["a"])
        changed = configured(
            tmp_path,
            section + '[upstreams.b]\ntype = "mcp"\nurl = "http://127.0.0.1:1/"\n'
            'headers = { X-Key = "file:later/token" }\n[state]\ndir = "elsewhere"\n',
        )
        sandboxing.follow(changed)
        with pytest.raises(ConfigError, match="a secret of the gateway's configuration"):
            sandboxing.pipe_to("a", changed.upstreams["a"])
        state = refused(sandboxing.guard, tmp_path / ".interlock")

    assert before.label == "a"
    assert "the gateway's own state" in state  # the one that is in use, until the next start


async def test_box_that_nobody_knows_has_no_resident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configured(tmp_path, f'[upstreams.a]\ntype = "mcp"\n{SHELL}\n')
    answers: list[bytes] = []
    driver = HostDriver()

    async def ask() -> None:
        way = driver.places[0].egress
        assert way is not None
        async with await anyio.connect_unix(str(way)) as stream:
            await stream.send(b"CONNECT example.org:443 HTTP/1.1\r\n\r\n")
            answers.append(await stream.receive())

    async with opened(settings, monkeypatch, driver) as sandboxing:
        await sandboxing.boxes.choose(Level.PROCESS)
        driver.gate = anyio.Event()

        async def start() -> None:
            await sandboxing.pipe_to("a", settings.upstreams["a"]).start()

        async with anyio.create_task_group() as group:
            group.start_soon(start)
            await driver.starting.wait()
            await ask()  # its socket is there, and it is not yet
            driver.gate.set()
        await ask()

    assert b"endpoint example.org:443 of a" in answers[1]
    assert answers[0].startswith(b"HTTP/1.1 403 ")
    assert b"this box is not one that runs" in answers[0]


async def test_what_an_earlier_run_left_is_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = configured(tmp_path, "")
    boxes = Ledger.of(settings.state.dir).root
    (boxes / "dead").mkdir(parents=True)
    boxes.chmod(0o700)
    frozen = settings.state.dir / app.FROZEN / "old"
    frozen.mkdir(parents=True)

    async with opened(settings, monkeypatch, HostDriver()):
        left = ((boxes / "dead").exists(), frozen.exists())

    assert left == (False, False)
    assert "cleared away 1 boxes that an earlier run left behind" in caplog.text


@pytest.mark.parametrize(("answer", "words"), [(Probe(True, "1"), ""), (Probe(False, reason="no kernel"), "no kernel")])
async def test_fault_of_isolation_is_known_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Probe, words: str
) -> None:
    monkeypatch.setattr(app, "drivers_of", lambda _: (HostDriver(answer=answer),))

    fault = await isolation_fault(configured(tmp_path, ""))

    assert (words in fault, bool(fault)) == (True, bool(words))


def test_configured_drivers_are_made_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(app.KERNEL, str(tmp_path))
    text = '[sandbox]\ndrivers = ["microsandbox", "qemu", "qemu-tcg", "gvisor", "bubblewrap"]\n'

    drivers = app.drivers_of(configured(tmp_path, text))

    assert [driver.name for driver in drivers] == ["microsandbox", "qemu", "qemu-tcg", "gvisor", "bubblewrap"]


async def test_packages_that_cannot_be_installed_keep_the_box_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configured(
        tmp_path,
        f'[upstreams.a]\ntype = "mcp"\n{SHELL}\nenvironment = "packed"\n',
        packed='packages = ["no-such-package-at-all==1.0"]\n',
    )
    asked = []

    async def unequipped(spec: object, pins: tuple[object, ...], *_: object) -> object:
        asked.append(pins)
        return replace(spec, env={"PYTHONPATH": "/opt/packages"})  # type: ignore[type-var]  # a box

    monkeypatch.setattr(app, "equipped", unequipped)
    driver = HostDriver()
    async with opened(settings, monkeypatch, driver) as sandboxing:
        await sandboxing.pipe_to("a", settings.upstreams["a"]).start()

    assert driver.specs[0].env == {"PYTHONPATH": "/opt/packages"}
    assert len(asked) == 1

"""What a gateway starts runs in a box: its record says which, and where none is strong enough there is no call."""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
from pathlib import Path

import httpx2
import pytest
from anyio import to_thread

from tests.e2e.boxes import (
    BOTH,
    SERVER,
    boxed,
    boxes,
    command_lines,
    environment,
    notes,
    planned,
    prepared,
    records,
    works,
)
from tests.e2e.caller import Told
from tests.e2e.eventually import eventually
from tests.e2e.place import ALLOW_ALL, as_process, in_process, interlock, new_key
from tests.servers.launch import http_server

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: boxes have users of their own only then")


@pytest.fixture(params=BOTH)
async def driver(request: pytest.FixtureRequest) -> str:
    return await works(request.param)


@pytest.fixture
async def bubblewrap() -> str:
    return await works("bubblewrap")


async def test_stdio_upstream_runs_in_a_box_by_default_and_each_record_says_in_which(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E2E_CANARY", "canary")
    place = prepared(tmp_path, {"one": boxed()}, ALLOW_ALL, driver)
    key = await new_key(place, "ana")

    async with in_process(place), place.caller(key) as ana:
        where = json.loads((await ana.call("one__where")).text)
        secret = await ana.call("one__read", {"path": str(place.config)})
        there = boxes(place)
    tail = await to_thread.run_sync(
        lambda: interlock(place, "audit", "tail", "--json", "--action", "mcp.tools.call", "--data", str(place.state))
    )

    assert where["cwd"] == "/workspace"
    assert "E2E_CANARY" not in where["env"]
    assert secret.failed
    assert "FileNotFoundError" in secret.text
    assert [(box.driver, box.purpose) for box in there] == [(driver, "upstream one")]
    for line in tail.stdout.splitlines():
        noted = notes(json.loads(line))["sandbox"]
        box = there[0]
        assert noted == {
            "id": box.id,
            "driver": driver,
            "version": box.version,
            "level": {"bubblewrap": "process", "gvisor": "gvisor"}[driver],
            "environment": box.environment,
        }
    assert len(tail.stdout.splitlines()) == 2
    assert boxes(place) == ()


async def test_server_on_the_host_is_warned_of_at_the_start_and_its_records_name_no_box(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = prepared(tmp_path, {"one": boxed(sandbox="none")}, ALLOW_ALL)
    key = await new_key(place, "ana")

    with caplog.at_level(logging.WARNING, "interlock.sandboxes"):
        async with in_process(place), place.caller(key) as ana:
            where = json.loads((await ana.call("one__where")).text)
            there = boxes(place)

    assert where["uid"] == os.getuid()
    assert there == ()
    assert "upstream 'one' runs on the host, outside of any sandbox" in caplog.text
    assert [notes(record) for record in records(place)] == [{}]


async def test_nothing_is_run_with_less_isolation_than_is_configured(bubblewrap: str, tmp_path: Path) -> None:
    environment(tmp_path, "strict", 'level = "gvisor"')
    upstreams = {
        "weak": boxed(),
        "strong": boxed(sandbox="gvisor"),
        "strict": boxed(environment="strict"),
        "code": {"type": "sandbox"},
    }
    place = prepared(tmp_path, upstreams, ALLOW_ALL, bubblewrap)
    key = await new_key(place, "ana")

    async with in_process(place) as ready, place.caller(key) as ana:
        weak, shown = await ana.call("weak__where"), await ana.tools()
        run = {"code": "print(1)", "language": "python", "environment": "strict"}
        refused = await ana.call("code__run_code", run)
        purposes = {box.purpose for box in boxes(place)}

    assert not weak.failed
    assert {name.partition("__")[0] for name in shown} == {"weak", "code"}
    for fault in (ready.upstreams["strong"], ready.upstreams["strict"], refused.text):
        assert "isolation of level gvisor is needed and not available" in fault
        assert "bubblewrap is only of level process" in fault
    assert refused.text.startswith("isolation_unavailable")
    assert purposes == {"upstream weak"}
    assert {(record["outcome"], record["error"]) for record in records(place, "sandbox.exec")} == {
        ("denied", "isolation_unavailable")
    }


async def test_gateway_stays_up_where_no_driver_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    monkeypatch.setenv("PATH", str(nothing))
    with http_server("counting", tmp_path) as web:
        place = prepared(tmp_path, {"one": boxed(), "web": {"url": web.url}, "code": {"type": "sandbox"}}, ALLOW_ALL)
        key = await new_key(place, "ana")

        async with in_process(place) as ready, place.caller(key) as ana:
            working = await ana.call("web__echo", {"text": "fine"})
            refused = await ana.call("code__run_code", {"code": "print(1)", "language": "python"})

    assert working.text == "fine"
    for fault in (ready.upstreams["one"], refused.text):
        assert "isolation of level process is needed and not available" in fault
        assert "bwrap" in fault


async def test_level_that_is_raised_while_the_gateway_runs_is_kept_from_then_on(
    bubblewrap: str, tmp_path: Path
) -> None:
    place = prepared(tmp_path, {"one": boxed()}, ALLOW_ALL, bubblewrap)
    key = await new_key(place, "ana")

    async with in_process(place), place.caller(key) as ana:
        before = await ana.call("one__where")
        place.write(planned(tmp_path, {"one": boxed(sandbox="gvisor")}, ALLOW_ALL, bubblewrap))

        async def refused() -> list[Told]:
            told = await ana.call("one__where")
            return [told] if told.failed else []

        (after,) = await eventually(refused)

        async def gone() -> bool:
            return boxes(place) == ()

        await eventually(gone)

    assert not before.failed
    assert after.text.startswith("isolation_unavailable: upstream 'one' is not connected")
    assert "isolation of level gvisor is needed and not available: bubblewrap is only of level process" in after.text


STRICTER = f"""{ALLOW_ALL}

gvisor := {{"type": "sandbox", "properties": {{"level": "gvisor"}}}}

obligation contains gvisor if input.resource.id == "one/write"

obligation contains gvisor if {{
	input.action.name == "mcp.tools.call"
	input.resource.properties.upstream in {{"other", "web"}}
}}

obligation contains gvisor if {{
	input.action.name == "mcp.tools.call"
	input.subject.id == "user:eve"
}}
"""


async def test_policy_that_asks_for_more_than_the_box_is_refuses_the_call(bubblewrap: str, tmp_path: Path) -> None:
    target = tmp_path / "shared"
    target.mkdir()
    with http_server("counting", tmp_path) as web:
        upstreams = {"one": boxed(binds=[f"{target}:/shared:rw"]), "other": boxed(), "web": {"url": web.url}}
        place = prepared(tmp_path, upstreams, STRICTER, bubblewrap)
        ana, eve = await new_key(place, "ana"), await new_key(place, "eve")

        async with in_process(place), place.caller(ana) as by_ana, place.caller(eve) as by_eve:
            fine = await by_ana.call("one__where")
            tool = await by_ana.call("one__write", {"path": "/shared/x", "content": "x"})
            upstream = await by_ana.call("other__where")
            agent = await by_eve.call("one__where")
            elsewhere = await by_ana.call("web__echo", {"text": "x"})
            async with httpx2.AsyncClient(trust_env=False) as http:
                reached = (await http.get(web.url.replace("/mcp", "/count"))).json()["methods"]

    assert not fine.failed
    for refused in (tool, upstream, agent):
        assert refused.failed
        assert refused.text.startswith("isolation_unavailable: policy asks for isolation of level gvisor")
        assert "level process" in refused.text
    assert list(target.iterdir()) == []
    assert "is reached over HTTP and runs where the gateway has no say" in elsewhere.text
    assert reached.get("tools/call", 0) == 0
    outcomes = [(record["outcome"], record["error"]) for record in records(place, "mcp.tools.call")]
    assert outcomes == [("ok", ""), *[("denied", "isolation_unavailable")] * 4]


LIMITED = f"""{ALLOW_ALL}

obligation contains {{"type": "sandbox", "properties": {{"limits": {{"memory_mb": 256}}}}}} if {{
	input.resource.properties.name == "where"
}}

obligation contains {{"type": "sandbox", "properties": {{"limits": {{"wall_s": 1}}}}}} if {{
	input.resource.properties.name == "stay"
}}
"""


async def test_limits_that_policy_sets_are_kept_or_the_call_is_refused(bubblewrap: str, tmp_path: Path) -> None:
    environment(tmp_path, "small", "[limits]\nmemory_mb = 128")
    place = prepared(tmp_path, {"usual": boxed(), "small": boxed(environment="small")}, LIMITED, bubblewrap)
    key = await new_key(place, "ana")

    async with in_process(place), place.caller(key) as ana:
        usual, small = await ana.call("usual__where"), await ana.call("small__where")
        endless, after = (
            await ana.call("usual__stay", {"seconds": 30}),
            await ana.call("usual__read", {"path": "/etc/passwd"}),
        )

    assert usual.text.startswith("isolation_unavailable: policy asks for memory_mb of at most 256")
    assert "may use 512" in usual.text
    assert not small.failed
    assert "did not end within the 1 s that policy gives it" in endless.text
    assert not after.failed


@needs_root
async def test_binds_are_read_only_unless_they_say_otherwise(driver: str, tmp_path: Path) -> None:
    shown, shared = tmp_path / "shown", tmp_path / "shared"
    shown.mkdir()
    shared.mkdir()
    (shown / "a").write_text("what is shown")
    os.chown(shared, 4321, 4321)
    place = prepared(tmp_path, {"one": boxed(binds=[str(shown), f"{shared}:/shared:rw"])}, ALLOW_ALL, driver)
    key = await new_key(place, "ana")

    async with in_process(place), place.caller(key) as ana:
        read = await ana.call("one__read", {"path": f"{shown}/a"})
        changed = await ana.call("one__write", {"path": f"{shown}/a", "content": "x"})
        made = await ana.call("one__write", {"path": f"{shown}/b", "content": "x"})
        written = await ana.call("one__write", {"path": "/shared/c", "content": "from the box"})

    assert read.text == "what is shown"
    assert changed.failed
    assert made.failed
    assert (shown / "a").read_text() == "what is shown"
    assert written.text == "written"
    assert (shared / "c").read_text() == "from the box"
    assert ((shared / "c").stat().st_uid, (shared / "c").stat().st_gid) == (4321, 4321)


async def test_bind_that_would_show_what_is_the_gateways_own_stops_only_its_upstream(
    bubblewrap: str, tmp_path: Path
) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "token").write_text("the token")
    refused = {
        "state": str(tmp_path / "state" / "audit"),
        "configuration": str(tmp_path),
        "secret": str(tmp_path / "keys"),
        "rules": f"{tmp_path / 'policy'}:/rules:rw",
    }
    upstreams = {name: boxed(binds=[bind]) for name, bind in refused.items()}
    fine = boxed(env={"TOKEN": f"file:{tmp_path / 'keys' / 'token'}"}, binds=[f"{tmp_path / 'policy'}:/rules"])
    place = prepared(tmp_path, {"fine": fine, **upstreams}, ALLOW_ALL, bubblewrap)
    key = await new_key(place, "ana")
    (place.state / "audit").mkdir(exist_ok=True)

    check = await to_thread.run_sync(lambda: interlock(place, "check"))
    async with in_process(place) as ready, place.caller(key) as ana:
        working = json.loads((await ana.call("fine__where")).text)

    assert working["env"]["TOKEN"] == "the token"
    assert ready.upstreams["fine"] == ""
    for name, bind in refused.items():
        assert ready.upstreams[name].startswith(f"upstreams.{name}.binds[0]: {bind.partition(':')[0]}")
        assert f"upstreams.{name}.binds[0]: {bind.partition(':')[0]}" in check.stdout
    assert check.returncode == 1
    assert "4 faults" in check.stdout


async def test_secrets_reach_the_server_and_nobody_else(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = f"secret-{secrets.token_hex(12)}"
    place = prepared(tmp_path, {"one": boxed(env={"TOKEN": "env:E2E_SECRET", "KIND": "plain"})}, ALLOW_ALL, driver)
    key = await new_key(place, "ana")

    with as_process(place, env={"E2E_SECRET": secret}):
        async with place.caller(key) as ana:
            where = json.loads((await ana.call("one__where")).text)
            arguments = command_lines()
            died = await ana.call("one__shout", {"name": "TOKEN"})

            async def told() -> bool:
                return "the token is" in place.log.read_text() or "exited" in place.log.read_text()

            await eventually(told)

    assert (where["env"]["TOKEN"], where["env"]["KIND"]) == (secret, "plain")
    assert "E2E_SECRET" not in where["env"]
    assert str(place.config).encode() in arguments
    assert secret.encode() not in arguments
    assert died.failed
    assert secret not in died.text
    assert secret not in place.log.read_text()
    for kept in place.state.rglob("*"):
        assert not kept.is_file() or secret.encode() not in kept.read_bytes()


async def test_server_that_misses_something_in_its_box_says_what(bubblewrap: str, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "server.py").write_text(SERVER.read_text())
    place = prepared(
        tmp_path,
        {
            "relative": boxed(command=[sys.executable, "server.py"]),
            "shown": boxed(command=[sys.executable, "server.py"], cwd=str(tmp_path / "one"), binds=["one"]),
            "absent": boxed(command=["no-such-program"]),
        },
        ALLOW_ALL,
        bubblewrap,
    )

    async with in_process(place) as ready:
        pass

    assert "can't open file '/workspace/server.py'" in ready.upstreams["relative"]
    assert ready.upstreams["shown"] == ""
    assert ready.upstreams["absent"].startswith("upstreams.absent.command: 'no-such-program' is no program here")


OFFICE = """env = { REGION = "north" }
limits = { work_mb = 24 }
files = { "/etc/office.toml" = { text = "floor = 3" } }
"""


async def test_upstream_takes_its_surroundings_from_the_environment_that_it_names(driver: str, tmp_path: Path) -> None:
    environment(tmp_path, "office", OFFICE)
    upstreams = {"one": boxed(environment="office"), "lost": boxed(environment="offfice")}
    place = prepared(tmp_path, upstreams, ALLOW_ALL, driver)
    key = await new_key(place, "ana")

    async with in_process(place) as ready, place.caller(key) as ana:
        where = json.loads((await ana.call("one__where")).text)
        file = await ana.call("one__read", {"path": "/etc/office.toml"})
        filled = await ana.call("one__fill", {"directory": "/workspace"})
    check = await to_thread.run_sync(lambda: interlock(place, "check"))

    assert where["env"]["REGION"] == "north"
    assert file.text == "floor = 3"
    assert filled.text == "24 MiB, then: No space left on device"
    assert ready.upstreams["lost"] == (
        "upstreams.lost.environment: there is no environment 'offfice'; there are: default, office"
    )
    assert ready.upstreams["lost"] in check.stdout


@pytest.mark.slow
async def test_environment_whose_packages_cannot_be_had_says_which(
    bubblewrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    environment(tmp_path, "tables", 'packages = ["no-such-package==1.0"]')
    upstreams = {"one": boxed(), "tables": boxed(environment="tables"), "code": {"type": "sandbox"}}
    place = prepared(tmp_path, upstreams, ALLOW_ALL, bubblewrap)
    key = await new_key(place, "ana")

    async with in_process(place) as ready, place.caller(key) as ana:
        fine = await ana.call("one__where")
        run = {"code": "print(1)", "language": "python", "environment": "tables"}
        refused = await ana.call("code__run_code", run)

    assert not fine.failed
    for fault in (ready.upstreams["tables"], refused.text):
        assert "no-such-package==1.0" in fault


@pytest.mark.slow
def test_faulty_environment_is_told_before_anything_starts(tmp_path: Path) -> None:
    environment(tmp_path, "office", 'egres = ["example.org"]\n[limits]\nmemory_mb = 1\n')
    place = prepared(tmp_path, {"one": boxed(environment="office")}, ALLOW_ALL)

    check = interlock(place, "check")
    up = interlock(place, "up", "--no-demo")

    for told in (check.stdout, up.stdout + up.stderr):
        assert "office.toml: egres: unknown key; did you mean 'egress'?" in told
        assert "office.toml: limits.memory_mb" in told
        assert "Traceback" not in told
    assert check.returncode == 1
    assert up.returncode != 0

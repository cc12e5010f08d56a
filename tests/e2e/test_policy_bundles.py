"""Policy from a server: only what is good comes into force, and what was good stays whatever the server does."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from adapters.pdp.bundle import PolicyRefused
from adapters.pdp.bundle_signature import SIGNATURES
from adapters.pdp.opa_bundle_archive import packed
from conformance.processes import free_port
from gateway.app.bundles import POLL_S, PolicyBundles, remarks
from gateway.app.policy import ActivePolicy
from gateway.config import Settings, loads
from gateway.errors import ConfigError, PolicyEngineUnavailable
from tests.e2e.bundle_server import LONG_POLL, Says, bundle_host
from tests.e2e.eventually import eventually
from tests.pdp.bundles import ALLOW, QUESTION, archive, files_of, keys, module

OTHER = 'allow if input.resource.id == "shop/sell"'


class Turns:
    """Stands for the time between two requests, which passes when a test says so."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        self._go, self._idle = anyio.Semaphore(0), anyio.Semaphore(0)

    async def wait(self, seconds: float) -> None:
        self.delays.append(seconds)
        self._idle.release()
        try:
            await self._go.acquire()
        except anyio.get_cancelled_exc_class():
            self._idle.acquire_nowait()
            raise

    async def begun_twice(self) -> bool:
        return len(self.delays) == 2

    async def pass_once(self) -> None:
        """Let it ask once, and wait until everything that follows from it is done."""
        with anyio.fail_after(30):
            await self._idle.acquire()
            self._go.release()
            await self._idle.acquire()
            self._idle.release()


class Place:
    """A gateway's policy, without the rest of the gateway."""

    def __init__(self, settings: Settings, poll_s: float) -> None:
        self.active, self.turns = ActivePolicy(), Turns()
        self.announced = 0
        self.bundles = PolicyBundles(
            settings, self.active, poll_s=poll_s, timeout_s=0.5, random=lambda: 0.5, wait=self.turns.wait
        )

    def announce(self) -> None:
        self.announced += 1

    async def allows(self) -> bool:
        answer = await self.active.evaluate("decision", QUESTION)
        return isinstance(answer.value, dict) and answer.value["decision"] is True


def configured(directory: Path, url: str, **policy: object) -> Settings:
    lines = "\n".join(f"{key} = {value!r}" for key, value in {"url": url, **policy}.items())
    return loads(f"[state]\ndir = '{directory / 'state'}'\n[policy]\n{lines}\n", directory)


def key_file(directory: Path, kind: str = "ec") -> str:
    path = directory / f"{kind}.pub"
    path.write_text(keys(kind)[1])
    return f"file:{path}"


@asynccontextmanager
async def started(settings: Settings, poll_s: float = POLL_S) -> AsyncIterator[Place]:
    place = Place(settings, poll_s)
    await place.bundles.start()
    async with anyio.create_task_group() as group:
        group.start_soon(place.bundles.run, place.announce)
        yield place
        group.cancel_scope.cancel()
    place.active.close()


async def test_bundle_of_the_server_decides(tmp_path: Path) -> None:
    with bundle_host() as host:
        host.serve(archive(kind="ec", revision="seven"), '"1"')

        async with started(configured(tmp_path, host.url, bundle_key=key_file(tmp_path))) as place:
            allowed, report = await place.allows(), place.bundles.report
            decided_by = place.active.revision

    assert allowed
    assert report.policy == decided_by
    assert (report.source, report.revision, report.etag, report.verified, report.error) == (
        "server", "seven", '"1"', True, "",
    )  # fmt: skip
    assert "secret" not in str(report.shown())


async def test_unchanged_bundle_is_neither_sent_nor_loaded_again(tmp_path: Path) -> None:
    with bundle_host() as host:
        host.serve(archive(), '"1"')

        async with started(configured(tmp_path, host.url)) as place:
            engine = place.active.engine
            await place.turns.pass_once()
            after = place.active.engine

    assert [asked.get("If-None-Match") for asked in host.asked] == [None, '"1"']
    assert host.asked[0]["Prefer"] == "modes=snapshot"
    assert after is engine
    assert place.announced == 0


async def test_server_without_etags_causes_no_exchange_while_it_gives_the_same(tmp_path: Path) -> None:
    with bundle_host() as host:
        host.serve(archive())

        async with started(configured(tmp_path, host.url)) as place:
            engine = place.active.engine
            await place.turns.pass_once()
            after = place.active.engine

    assert after is engine


async def test_new_bundle_comes_into_force_and_is_announced(tmp_path: Path) -> None:
    with bundle_host() as host:
        host.serve(archive(OTHER), '"1"')

        async with started(configured(tmp_path, host.url)) as place:
            before = await place.allows()
            host.serve(archive(), '"2"')
            await place.turns.pass_once()
            after = await place.allows()

    assert (before, after) == (False, True)
    assert place.announced == 1
    assert place.bundles.report.etag == '"2"'


async def test_token_goes_along_and_is_read_anew_after_a_failure(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    with bundle_host() as host:
        host.serve(archive())

        async with started(configured(tmp_path, host.url, token=f"file:{token}")) as place:
            token.write_text("second")
            host.says = Says(401)
            await place.turns.pass_once()
            error = place.bundles.report.error
            await place.turns.pass_once()

    assert [asked["Authorization"] for asked in host.asked][::2] == ["Bearer first", "Bearer second"]
    assert "policy.token" in error


TRUNCATED = archive()[:-40]
ELSEWHERE = {"Location": "http://127.0.0.1:1/"}


@pytest.mark.parametrize(
    ("says", "error"),
    [
        pytest.param(Says(404), "status 404", id="404"),
        pytest.param(Says(500), "status 500", id="500"),
        pytest.param(Says(302, headers=ELSEWHERE), "redirects are not followed", id="redirect"),
        pytest.param(Says(304), "status 304", id="304 without a question"),
        pytest.param(Says(200, b"<html>down for maintenance</html>"), "is not gzip", id="garbage"),
        pytest.param(Says(200, b""), "is cut off", id="nothing"),
        pytest.param(Says(200, TRUNCATED), "is cut off", id="truncated gzip"),
        pytest.param(Says(200, archive(kind="ec", revision="x"), cut=True), "cannot be read", id="cut connection"),
        pytest.param(Says(200, slow=True), "longer than 0.5 s", id="slow"),
        pytest.param(Says(200, archive(OTHER)), "is not signed", id="unsigned"),
        pytest.param(Says(200, archive(OTHER, kind="ec-other")), "not made with this key", id="other key"),
        pytest.param(Says(200, archive("allow if {", kind="ec")), "shop.rego", id="no Rego"),
        pytest.param(
            Says(200, archive("allow if http.send({}).x", kind="ec")), "http.send is not allowed", id="not activatable"
        ),
        pytest.param(
            Says(200, archive(OTHER, kind="ec", tests="package tests.shop\n\ntest_it if data.rules.shop.allow\n")),
            "test_it: is undefined", id="failing tests",
        ),
    ],
)  # fmt: skip
async def test_what_is_no_good_bundle_leaves_the_last_good_one_in_force(tmp_path: Path, says: Says, error: str) -> None:
    with bundle_host() as host:
        host.serve(archive(kind="ec"))

        async with started(configured(tmp_path, host.url, bundle_key=key_file(tmp_path))) as place:
            host.says = says
            await place.turns.pass_once()
            allowed, told = await place.allows(), place.bundles.report
            host.serve(archive(kind="ec", revision="better"), '"9"')
            await place.turns.pass_once()

    assert allowed
    assert error in told.error
    assert told.source == "server"
    assert (place.bundles.report.error, place.bundles.report.revision) == ("", "better")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
async def test_answer_that_is_no_http_is_told_without_the_secrets_of_the_address(tmp_path: Path, answer: bytes) -> None:
    async def answers(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(answer)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, answers)
        url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/b?secret=x"
        with anyio.fail_after(30):
            async with started(configured(tmp_path, url)) as place:
                told = place.bundles.report
        group.cancel_scope.cancel()

    assert "is not HTTP" in told.error
    assert "secret" not in str(told.shown())


async def test_bundle_that_nobody_signed_ends_no_gateway(tmp_path: Path) -> None:
    header = urlsafe_b64encode(b'{"alg":"ES256","x":' + b"[" * 2_000).decode()
    deep = packed({**files_of(), SIGNATURES: b'{"signatures": ["%s.e30.AA"]}' % header.encode()})
    with bundle_host() as host:
        host.serve(archive(kind="ec"))

        async with started(configured(tmp_path, host.url, bundle_key=key_file(tmp_path))) as place:
            host.serve(deep)
            await place.turns.pass_once()
            allowed = await place.allows()

    assert allowed
    assert "not made with this key" in place.bundles.report.error


async def test_same_bytes_after_a_failure_clear_it(tmp_path: Path) -> None:
    with bundle_host() as host:
        host.serve(archive(), '"1"')

        async with started(configured(tmp_path, host.url)) as place:
            host.says = Says(500)
            await place.turns.pass_once()
            host.serve(archive(), '"1"')
            await place.turns.pass_once()

    assert place.bundles.report.error == ""
    assert host.asked[-1]["If-None-Match"] == '"1"'


async def test_failures_are_asked_about_soon_and_then_less_and_less_often(tmp_path: Path) -> None:
    with bundle_host() as host:
        host.serve(archive())

        async with started(configured(tmp_path, host.url), poll_s=10) as place:
            host.says = Says(500)
            for _ in range(6):
                await place.turns.pass_once()
            failing = list(place.turns.delays)
            host.serve(archive())
            await place.turns.pass_once()

    assert failing == [10, 2, 4, 8, 10, 10, 10]
    assert place.turns.delays[-1] == 10


async def test_server_that_can_wait_is_asked_to(tmp_path: Path) -> None:
    with bundle_host() as host:
        host.serve(archive(OTHER), '"1"', **{"Content-Type": LONG_POLL})

        async with started(configured(tmp_path, host.url), poll_s=30) as place:
            host.serve(archive(), '"2"', **{"Content-Type": LONG_POLL})
            await place.turns.pass_once()
            told = place.turns.delays[-1]
            await place.turns.pass_once()

    assert [asked["Prefer"] for asked in host.asked] == ["modes=snapshot", *["modes=snapshot;wait=30"] * 2]
    assert told == 1, "the next question goes out at once"
    assert place.turns.delays[-1] == 30, "a server that says so and does not wait is asked like any other"


async def test_kept_bundle_decides_when_the_server_is_down_at_the_start(tmp_path: Path) -> None:
    settings = configured(tmp_path, f"http://127.0.0.1:{free_port()}/b", bundle_key=key_file(tmp_path))
    await keep(settings, archive(kind="ec", revision="kept"))

    async with started(settings) as place:
        allowed, report = await place.allows(), place.bundles.report

    assert allowed
    assert (report.source, report.revision, report.answered_s) == ("kept", "kept", 0)
    assert "cannot be read" in report.error


async def test_kept_bundle_is_followed_by_the_server_s_when_it_is_back(tmp_path: Path) -> None:
    settings = configured(tmp_path, f"http://127.0.0.1:{(port := free_port())}/b")
    await keep(settings, archive(OTHER), '"1"')

    async with started(settings) as place:
        before = await place.allows()
        with bundle_host(port) as host:
            host.serve(archive(), '"2"')
            await place.turns.pass_once()
            after = await place.allows()

    assert (before, after) == (False, True)
    assert host.asked[0]["If-None-Match"] == '"1"'
    assert place.bundles.report.source == "server"


async def test_kept_bundle_is_verified_again(tmp_path: Path) -> None:
    settings = configured(tmp_path, f"http://127.0.0.1:{free_port()}/b", bundle_key=key_file(tmp_path))
    await keep(settings, archive(kind="ec"))
    (stored,) = (tmp_path / "state" / "bundles").glob("*.tar.gz")
    stored.write_bytes(archive(kind="ec-other"))

    async with started(settings) as place:
        with pytest.raises(PolicyEngineUnavailable):
            await place.allows()

    assert "of the last good bundle" in place.bundles.report.error
    assert stored.stat().st_mode & 0o077 == 0


async def test_bundle_kept_from_another_address_is_not_used(tmp_path: Path) -> None:
    await keep(configured(tmp_path, f"http://127.0.0.1:{free_port()}/b"), archive())

    async with started(configured(tmp_path, f"http://127.0.0.1:{free_port()}/other")) as place:
        with pytest.raises(PolicyEngineUnavailable):
            await place.allows()


async def test_without_any_bundle_everything_is_denied_until_the_server_is_there(tmp_path: Path) -> None:
    settings = configured(tmp_path, f"http://127.0.0.1:{(port := free_port())}/b")

    async with started(settings) as place:
        with pytest.raises(PolicyEngineUnavailable):
            await place.allows()
        with bundle_host(port) as host:
            host.serve(archive())
            await place.turns.pass_once()
            allowed = await place.allows()

    assert allowed
    assert place.turns.delays[0] == 2, "not only after poll_s"
    assert place.announced == 1


async def test_refused_bundle_at_the_start_leaves_the_kept_one(tmp_path: Path) -> None:
    with bundle_host() as host:
        settings = configured(tmp_path, host.url, bundle_key=key_file(tmp_path))
        host.serve(archive(kind="ec"))
        async with started(settings):
            host.serve(archive(OTHER, kind="ec-other"))

        async with started(settings) as place:
            allowed = await place.allows()

    assert allowed
    assert place.bundles.report.source == "kept"


async def test_bundle_with_a_library_of_its_own_decides_by_it(tmp_path: Path) -> None:
    library = (Path(__file__).parents[2] / "policies/lib/interlock.rego").read_bytes()
    files = {"lib/interlock.rego": library, "shop.rego": module(ALLOW).encode()}
    with bundle_host() as host:
        host.serve(packed(files))

        async with started(configured(tmp_path, host.url)) as place:
            allowed = await place.allows()

    assert allowed


async def test_other_settings_are_followed_from_the_next_request_on(tmp_path: Path) -> None:
    with bundle_host() as one, bundle_host() as two:
        one.serve(archive(OTHER))
        two.serve(archive(), '"two"')
        settings = configured(tmp_path, one.url).policy

        async with started(configured(tmp_path, one.url)) as place:
            other = settings.model_copy(update={"url": two.url})
            async with place.active.changing:
                engine = await place.bundles.open(other)
                place.active.activate(engine)
                place.bundles.follow(other)
            await eventually(place.turns.begun_twice)
            allowed = await place.allows()
            await place.turns.pass_once()

    assert allowed
    assert [asked.get("If-None-Match") for asked in two.asked] == [None, '"two"']
    assert len(one.asked) == 1


async def test_key_that_is_none_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("hunter2")
    settings = configured(tmp_path, "http://127.0.0.1:1/b", bundle_key=f"file:{tmp_path / 'short'}")

    with pytest.raises(ConfigError, match=r"policy\.bundle_key: is a shared secret of less than 32 bytes"):
        await PolicyBundles(settings, ActivePolicy()).start()


async def test_policy_on_disk_is_opened_as_ever(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "shop.rego").write_text("package rules.shop\n\nallow if {")
    settings = loads(f"[policy]\npath = '{tmp_path / 'rules'}'", tmp_path)

    with pytest.raises(PolicyRefused):
        await PolicyBundles(settings, ActivePolicy()).start()


def test_configuration_without_a_key_is_remarked_upon(tmp_path: Path) -> None:
    unsigned = configured(tmp_path, "http://bundles.example/b", token="env:TOKEN").policy
    good = configured(tmp_path, "https://bundles.example/b", token="env:TOKEN", bundle_key="env:KEY").policy

    assert [key for key, _ in remarks(unsigned)] == ["policy.bundle_key", "policy.token"]
    assert remarks(good) == []


@pytest.mark.parametrize("engine", ["opa", "authzen"])
def test_token_that_goes_out_unencrypted_is_remarked_upon_for_each_engine(tmp_path: Path, engine: str) -> None:
    told = configured(tmp_path, "http://pdp.example", token="env:TOKEN", engine=engine).policy
    near = configured(tmp_path, "http://127.0.0.1:8181", token="env:TOKEN", engine=engine).policy

    assert [key for key, _ in remarks(told)] == ["policy.token"]
    assert remarks(near) == []


async def keep(settings: Settings, bundle: bytes, etag: str = "") -> None:
    """As a gateway leaves it that was there while the server was."""
    port = int(settings.policy.url.split(":")[2].partition("/")[0])
    with bundle_host(port) as host:
        host.serve(bundle, etag)
        async with started(settings):
            pass

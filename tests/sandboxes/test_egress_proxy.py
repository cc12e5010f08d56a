"""Who is connected to what: the egress proxy, asked over real sockets, on both event loops."""

from __future__ import annotations

import errno
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from ipaddress import ip_network
from pathlib import Path

import anyio
import pytest

from gateway.errors import PermitMismatch, PolicyDenied, PolicyEngineUnavailable, SandboxFailure
from gateway.lookups import is_own, system_resolve
from sandboxes.egress.gate import Carry, Destination, Terms
from sandboxes.egress.limits import EgressLimits
from sandboxes.egress.proxy import EgressProxy
from sandboxes.egress.sockets import connect
from tests.sandboxes.egress_world import (
    LOOPBACK,
    Dialled,
    ListGate,
    Names,
    answering,
    ask,
    echo,
    origin,
    serving,
    status_of,
    tunnel,
)

METADATA = "169.254.169.254"
PUBLIC = "93.184.215.14"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def test_permitted_request_is_carried_and_written_anew(tmp_path: Path) -> None:
    seen: list[bytes] = []
    async with origin(answering(b"hello", seen)) as port:
        gate = ListGate({f"127.0.0.1:{port}": LOOPBACK})
        async with serving(tmp_path, gate) as path:
            head = f"GET http://127.0.0.1:{port}/a?b HTTP/1.1\r\nHost: other.test\r\nProxy-Connection: x\r\nX-A: 1"

            answer = await ask(path, f"{head}\r\n\r\nGET http://127.0.0.1/ HTTP/1.1\r\n\r\n".encode())

    assert status_of(answer) == 200
    assert answer.endswith(b"hello")
    assert seen == [f"GET /a?b HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nx-a: 1\r\nconnection: close\r\n\r\n".encode()]
    assert gate.asked == [("box-1", Destination("127.0.0.1", port, "http", "GET"))]
    (traffic,) = await gate.until_carried()
    assert (traffic.address, traffic.ended) == ("127.0.0.1", "closed")
    assert (traffic.sent, traffic.received) == (len(seen[0]), len(answer))


async def test_permitted_tunnel_carries_both_directions_and_half_closes(tmp_path: Path) -> None:
    async with origin(echo) as port:
        gate = ListGate({f"db.test:{port}": LOOPBACK})
        async with serving(tmp_path, gate, names=Names({"db.test": ["127.0.0.1"]})) as path:
            async with tunnel(path, f"DB.test.:{port}") as stream:
                await stream.send(b"ping")
                await stream.send_eof()
                with anyio.fail_after(5):
                    assert await stream.receive() == b"ping"
                    with pytest.raises(anyio.EndOfStream):
                        await stream.receive()
            (traffic,) = await gate.until_carried()

    assert (traffic.address, traffic.sent, traffic.received, traffic.ended) == ("127.0.0.1", 4, 4, "closed")


@pytest.mark.parametrize(
    "where", ["evil.test:443", "127.0.0.1:22", "0.0.0.0:80", "[::1]:80", "[::ffff:127.0.0.1]:80", f"{METADATA}:80"]
)
async def test_what_policy_refuses_is_neither_looked_up_nor_dialled(tmp_path: Path, where: str) -> None:
    names, dialled = Names({"evil.test": ["127.0.0.1"]}), Dialled()
    async with serving(tmp_path, ListGate(), names=names, dial=dialled) as path:
        answer = await ask(path, f"CONNECT {where} HTTP/1.1\r\n\r\n".encode())

    assert status_of(answer) == 403
    assert answer.endswith(b" is not permitted: no rule permits it; ask for a rule\n")
    assert (names.asked, dialled.addresses) == ([], [])


@pytest.mark.parametrize(
    ("where", "addresses"),
    [
        ("127.0.0.1:80", []),
        ("0.0.0.0:80", []),
        ("[::]:80", []),
        ("[::1]:80", []),
        ("[::ffff:127.0.0.1]:80", []),
        ("[64:ff9b::7f00:1]:80", []),
        ("[2002:7f00:1::]:80", []),
        (f"{METADATA}:80", []),
        (f"{METADATA}.:80", []),
        (f"[::ffff:{METADATA}]:80", []),
        ("168.63.129.16:80", []),
        ("[fd00:ec2::254]:80", []),
        ("10.1.2.3:80", []),
        ("rebind.test:80", ["127.0.0.1"]),
        ("rebind.test.:80", ["::ffff:127.0.0.1"]),
        ("rebind.test:80", [METADATA]),
        ("rebind.test:80", ["0.0.0.0"]),
        ("rebind.test:80", [PUBLIC, "10.0.0.1"]),
        ("rebind.test:80", ["10.0.0.1", PUBLIC]),
        ("rebind.test:80", [PUBLIC, "fe80::1%eth0"]),
        ("rebind.test:80", [PUBLIC, "not an address"]),
    ],
)
@pytest.mark.parametrize("form", ["CONNECT {} HTTP/1.1\r\n\r\n", "GET http://{}/ HTTP/1.1\r\n\r\n"])
async def test_permitted_host_is_not_dialled_at_an_address_that_is_not_public(
    tmp_path: Path, where: str, addresses: list[str], form: str
) -> None:
    dialled = Dialled()
    permits = dict.fromkeys(_spellings(where), Terms())
    gate = ListGate(permits)
    async with serving(tmp_path, gate, names=Names({"rebind.test": addresses}), dial=dialled) as path:
        answer = await ask(path, form.format(where).encode())

    assert status_of(answer) == 403
    assert b"policy has to grant" in answer
    assert not any(address.encode() in answer for address in addresses)  # what is inside is not told
    assert dialled.addresses == []
    assert [type(error) for error in gate.errors] == [PolicyDenied]
    assert gate.carried[0].ended == "policy_denied"


def _spellings(where: str) -> list[str]:
    host = where.rpartition(":")[0].removesuffix(".")
    wrapped = host.removeprefix("[::ffff:").removesuffix("]")
    return [f"{host}:80", f"{wrapped}:80"]


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "017700000001", "127.0.0.1.."])
async def test_odd_form_of_an_address_is_a_bad_request(tmp_path: Path, host: str) -> None:
    gate, names = ListGate(), Names()
    async with serving(tmp_path, gate, names=names) as path:
        answer = await ask(path, f"CONNECT {host}:80 HTTP/1.1\r\n\r\n".encode())

    assert status_of(answer) == 400
    assert (gate.asked, names.asked) == ([], [])


async def test_name_that_changes_its_address_is_looked_up_once_and_judged_each_time(tmp_path: Path) -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]])
    asked: list[str] = []

    def flipping(host: str, port: int) -> Iterable[str]:
        asked.append(host)
        return next(answers)

    async with origin(answering(b"the public one")) as port:
        gate = ListGate({f"rebind.test:{port}": Terms()})
        dialled = Dialled({PUBLIC: "127.0.0.1"})  # the test's public internet
        async with serving(tmp_path, gate, names=flipping, dial=dialled) as path:
            request = f"GET http://rebind.test:{port}/ HTTP/1.1\r\n\r\n".encode()

            first, second = await ask(path, request), await ask(path, request)

    assert first.endswith(b"the public one")
    assert status_of(second) == 403
    assert dialled.addresses == [PUBLIC]
    assert asked == ["rebind.test", "rebind.test"]


async def test_next_checked_address_is_dialled_when_one_does_not_answer(tmp_path: Path) -> None:
    dialled = Dialled()
    terms = Terms(ranges=(ip_network("127.0.0.0/8"),))
    async with origin(answering(b"hello")) as port:
        names = Names({"two.test": ["127.0.0.2", "127.0.0.2", "127.0.0.1"]})
        gate = ListGate({f"two.test:{port}": terms})
        async with serving(tmp_path, gate, names=names, dial=dialled) as path:
            answer = await ask(path, f"GET http://two.test:{port}/ HTTP/1.1\r\n\r\n".encode())

    assert answer.endswith(b"hello")
    assert dialled.addresses == ["127.0.0.2", "127.0.0.1"]
    assert gate.carried[0].address == "127.0.0.1"


async def test_gateways_own_address_needs_a_range_that_names_it(tmp_path: Path) -> None:
    wide = Terms(ranges=(ip_network("10.0.0.0/8"),))
    exact = Terms(ranges=(ip_network("10.0.0.5"),))
    async with origin(answering(b"hello")) as port:
        dialled = Dialled({"10.0.0.5": "127.0.0.1"})
        gate = ListGate({f"10.0.0.5:{port}": wide})
        async with serving(tmp_path, gate, dial=dialled, own=lambda address: address == "10.0.0.5") as path:
            request = f"GET http://10.0.0.5:{port}/ HTTP/1.1\r\n\r\n".encode()

            refused = await ask(path, request)
            gate.permits = {f"10.0.0.5:{port}": exact}
            answer = await ask(path, request)

    assert status_of(refused) == 403
    assert b"is the gateway's own machine" in refused
    assert answer.endswith(b"hello")
    assert is_own("127.0.0.1")
    assert not is_own("255.255.255.255")


async def test_failure_to_connect_says_which_and_why(tmp_path: Path) -> None:
    def names(host: str, port: int) -> Iterable[str]:
        if host == "empty.test":
            return []
        if host == "late.test":
            raise TimeoutError
        if host == "closed.test":
            return ["127.0.0.1"]
        raise socket.gaierror(socket.EAI_NONAME, "no")

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        hosts = ["empty.test", "late.test", "closed.test", "unknown.test"]
        gate = ListGate({f"{host}:{port}": LOOPBACK for host in hosts})
        async with serving(tmp_path, gate, names=names) as path:
            answers = {host: await ask(path, f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode()) for host in hosts}

    assert {host: status_of(answer) for host, answer in answers.items()} == {
        "empty.test": 502,
        "late.test": 504,
        "closed.test": 502,
        "unknown.test": 502,
    }
    assert answers["closed.test"].endswith(f"\r\n\r\nclosed.test:{port} refuses the connection\n".encode())


async def test_destination_that_never_answers_is_given_up_in_time(tmp_path: Path) -> None:
    async def silent(address: str, port: int) -> socket.socket:
        await anyio.sleep_forever()
        raise AssertionError

    async def broken(address: str, port: int) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files in the gateway")

    gate = ListGate({f"{PUBLIC}:80": Terms()})
    request = f"CONNECT {PUBLIC}:80 HTTP/1.1\r\n\r\n".encode()
    async with serving(tmp_path, gate, dial=silent, limits=EgressLimits(dial_s=0.05)) as path:
        late = await ask(path, request)
    async with serving(tmp_path, gate, dial=broken) as path:
        failed = await ask(path, request)

    assert status_of(late) == 504
    assert failed.endswith(f"\r\n\r\n{PUBLIC}:80 cannot be reached\n".encode())


async def test_lookup_that_hangs_holds_up_nobody_else_and_no_more_threads_than_its_share(tmp_path: Path) -> None:
    hang = threading.Event()

    def names(host: str, port: int) -> Iterable[str]:
        if host == "hang.test":
            hang.wait(10)
        return ["127.0.0.1"]

    gate = ListGate({"hang.test:80": LOOPBACK, "good.test:80": LOOPBACK})
    try:
        async with serving(tmp_path, gate, names=names, limits=EgressLimits(resolve_s=0.05, lookups=1)) as path:
            hung = await ask(path, b"CONNECT hang.test:80 HTTP/1.1\r\n\r\n")
            full = await ask(path, b"CONNECT good.test:80 HTTP/1.1\r\n\r\n")
    finally:
        hang.set()

    assert [status_of(hung), status_of(full)] == [504, 504]


async def test_address_that_cannot_be_connected_to_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match=r"denied|unreachable"):
        await connect("255.255.255.255", 80)


def test_system_resolver_gives_addresses_as_text() -> None:
    assert "127.0.0.1" in list(system_resolve("localhost", 80))


async def test_gate_that_fails_is_a_refusal_and_what_it_did_not_foresee_ends_the_connection_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        errors = iter([PolicyEngineUnavailable("the policy engine\r\nSet-Cookie: x\x00is away"), ZeroDivisionError()])

        async def connect(self, box_id: str, destination: Destination, carry: Carry) -> None:
            for error in self.errors:
                raise error

    async with serving(tmp_path, Failing()) as path:
        unavailable, bug, silent = [await ask(path, b"CONNECT a.test:1 HTTP/1.1\r\n\r\n") for _ in range(3)]

    assert status_of(unavailable) == 403
    assert unavailable.endswith(b"\r\n\r\na.test:1 is not permitted: the policy engine Set-Cookie: x is away\n")
    assert bug == b""
    assert status_of(silent) == 403  # it returned without carrying
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_permit_is_for_one_connection(tmp_path: Path) -> None:
    class Greedy:
        kept: Carry
        errors: list[str] = []  # noqa: RUF012  # of this test only

        async def connect(self, box_id: str, destination: Destination, carry: Carry) -> None:
            self.kept = carry
            await carry(LOOPBACK)
            await self.again()

        async def again(self) -> None:
            try:
                await self.kept(LOOPBACK)
            except PermitMismatch as exc:
                self.errors.append(str(exc))

    gate = Greedy()
    async with origin(answering(b"hello")) as port, serving(tmp_path, gate) as path:
        answer = await ask(path, f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n".encode())
        await gate.again()

    assert answer.endswith(b"hello")
    assert gate.errors == [f"127.0.0.1:{port}: a permit is for one connection"] * 2


async def test_heads_that_come_slowly_or_are_large_or_end_early_are_refused(tmp_path: Path) -> None:
    gate = ListGate()
    async with serving(tmp_path, gate, limits=EgressLimits(head_s=0.05)) as path:
        slow = await ask(path, b"CONNECT a.test:1 HT")
    async with serving(tmp_path, gate, limits=EgressLimits(head_bytes=200)) as path:
        large = await ask(path, b"CONNECT a.test:1 HTTP/1.1\r\nX: " + b"y" * 300)
        nonsense = await ask(path, b"\x16\x03\x01\r\n\r\n")
        async with await anyio.connect_unix(path) as stream:
            await stream.send(b"CONNECT a.te")
            await stream.send_eof()
            with anyio.fail_after(5), pytest.raises(anyio.EndOfStream):
                await stream.receive()

    assert [status_of(slow), status_of(large), status_of(nonsense)] == [408, 431, 400]
    assert gate.asked == []


async def test_only_the_boxs_user_and_the_gateways_own_are_listened_to() -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    source = "import os,socket,sys; os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2])); "
    source += "s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
    source += "s.sendall(b'CONNECT a.test:1 HTTP/1.1\\r\\n\\r\\n'); print(s.recv(12).decode())"
    gate = ListGate()
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o711)
        async with serving(Path(name), gate, uid=54321) as path:

            async def said_to(uid: int) -> str:
                command = [sys.executable, "-IS", "-c", source, str(path), str(uid)]
                with anyio.fail_after(20):
                    done = await anyio.run_process(command, stderr=subprocess.STDOUT, check=False)
                return done.stdout.decode()

            assert (await said_to(54321)).startswith("HTTP/1.1 403")
            assert "HTTP" not in await said_to(54322)
            assert len(gate.asked) == 1


async def test_leaving_ends_every_connection_and_removes_the_socket(tmp_path: Path) -> None:
    async with origin(echo) as port:
        gate = ListGate({f"127.0.0.1:{port}": LOOPBACK})
        async with serving(tmp_path, gate) as path:
            open_one = await anyio.connect_unix(path)
            await open_one.send(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
            assert status_of(await open_one.receive()) == 200

        with anyio.fail_after(5), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await open_one.receive()
        await open_one.aclose()

    assert gate.carried[0].ended == "cancelled"
    assert not path.exists()


async def test_what_is_raised_while_serving_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with serving(tmp_path, ListGate()):
            raise KeyError("mine")


async def test_socket_may_have_a_long_path_and_is_made_or_the_box_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    (deep / "egress.sock").touch()
    proxy = EgressProxy(ListGate())

    with pytest.raises(SandboxFailure, match="egress socket of box 'b' cannot be made: Address already in use"):
        async with proxy.serving("b", deep / "egress.sock", None):
            pass
    with pytest.raises(SandboxFailure):
        async with proxy.serving("b", tmp_path / "missing" / "egress.sock", None):
            pass
    async with proxy.serving("b", deep / "other.sock", None):
        assert (deep / "other.sock").is_socket()
    assert (deep / "egress.sock").exists()

"""Child processes: how they are started, spoken to and ended, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from adapters.upstreams.wire.jsonlines import JsonLines
from gateway.errors import UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from sandboxes.host import reaper
from sandboxes.host.process import ChildProcess, ProcessSpec, environment
from tests.wire.processes import ECHO, GATEWAY, TREE, TREE_SIZE, all_ended, messages_of, python, reported_pids, watched

ROOT = Path(__file__).parents[2]


async def test_messages_go_to_the_child_and_back() -> None:
    with anyio.fail_after(10):
        async with await ChildProcess.start(python(ECHO)) as child:
            lines = messages_of(child)
            await lines.send({"id": 1, "text": "a\nb ü"})
            answer = await lines.receive()
            status = await child.stop()

    assert answer == {"id": 1, "text": "a\nb ü"}
    assert status == 0


async def test_child_gets_the_configured_environment_and_four_variables_of_ours() -> None:
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    ours = {"PATH": os.environ["PATH"], "HOME": "/h", "LANG": "C", "TMPDIR": "/t", "SECRET": "s", "PYTHONPATH": "/x"}

    with anyio.fail_after(10):
        async with await ChildProcess.start(python(program, env={"TOKEN": "t"}), inherited=ours) as child:
            got = await messages_of(child).receive()

    expected = {"PATH", "HOME", "LANG", "TMPDIR", "TOKEN", "INTERLOCK_PROCESS"}
    assert set(got) - {"LC_CTYPE"} == expected  # the child's own Python adds LC_CTYPE
    assert environment({"HOME": "/mine"}, {"HOME": "/h", "X": "1"}) == {"HOME": "/mine"}


async def test_child_inherits_no_file_but_its_streams() -> None:
    program = "import json, os; print(json.dumps({'fds': sorted(map(int, os.listdir('/dev/fd')))}))"
    readable, writable = os.pipe()
    os.set_inheritable(writable, True)
    try:
        with anyio.fail_after(10):
            async with await ChildProcess.start(python(program)) as child:
                fds = (await messages_of(child).receive())["fds"]
    finally:
        os.close(readable)
        os.close(writable)

    assert fds == [0, 1, 2, 3]  # 3 is the listing itself


async def test_child_runs_where_it_is_told_to(tmp_path: Path) -> None:
    program = "import json, os; print(json.dumps({'cwd': os.getcwd()}))"

    with anyio.fail_after(10):
        async with await ChildProcess.start(python(program, cwd=str(tmp_path))) as child:
            got = await messages_of(child).receive()

    assert got == {"cwd": str(tmp_path)}


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (ProcessSpec(("no-such-command-anywhere",)), "no such file or directory: 'no-such-command-anywhere'"),
        (ProcessSpec(("/etc/passwd",)), "permission denied: '/etc/passwd'"),
        (ProcessSpec(()), "has no command to run"),
        (ProcessSpec(("cat",), cwd="/no/such/place"), "(?i)no such file or directory"),
    ],
)
async def test_command_that_cannot_run_is_unavailable_with_the_reason(spec: ProcessSpec, why: str) -> None:
    with anyio.fail_after(10), pytest.raises(UpstreamUnavailable, match=why):
        await ChildProcess.start(spec)


async def test_child_that_dies_at_start_is_reported_with_its_last_words() -> None:
    program = "import sys; sys.exit('\\x1b[31mcannot open s3cret-value: password=hunter2 Bearer abc.def\\x1b[0m')"

    with anyio.fail_after(10):
        async with await ChildProcess.start(python(program, env={"KEY": "s3cret-value"}, label="files")) as child:
            with pytest.raises(UpstreamUnavailable) as caught:
                await messages_of(child).receive()

    expected = "upstream 'files' exited with status 1; the last it said: cannot open ***: password=*** Bearer ***"
    assert str(caught.value) == expected


async def test_writing_to_a_dead_child_is_unavailable_with_its_exit_status() -> None:
    with anyio.fail_after(10):
        async with await ChildProcess.start(python("raise SystemExit(3)")) as child:
            await child.wait()
            with pytest.raises(UpstreamUnavailable, match="exited with status 3"):
                await messages_of(child).send({"id": 1})


async def test_child_killed_by_a_signal_is_reported_as_the_shell_would() -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"

    with anyio.fail_after(10):
        async with await ChildProcess.start(python(program)) as child:
            status = await child.wait()

    assert status == 128 + signal.SIGSEGV


async def test_child_that_does_not_read_makes_the_writer_wait_and_then_time_out() -> None:
    with anyio.fail_after(10):
        async with await ChildProcess.start(python("import time; time.sleep(600)")) as child:
            lines = messages_of(child)
            with pytest.raises(UpstreamTimeout, match="did not read its input"):
                await _send_without_end(lines)
            await child.stop(stdin_wait_s=0, term_wait_s=1)


async def _send_without_end(lines: JsonLines) -> None:
    for _ in range(100):
        await lines.send({"text": "x" * 50_000}, deadline_s=0.05)


async def test_child_that_nobody_reads_from_is_made_to_wait() -> None:
    program = """
import sys
for number in range(200):
    sys.stdout.write('{"n": "' + "x" * 100_000 + '"}\\n')
    sys.stdout.flush()
    sys.stderr.write(f"{number}\\n")
    sys.stderr.flush()
sys.stdin.read()
"""
    with anyio.fail_after(20):
        async with await ChildProcess.start(python(program)) as child:
            lines = messages_of(child, max_line_bytes=200_000)
            await lines.receive()
            while not child.stderr:
                await anyio.lowlevel.checkpoint()
            with anyio.move_on_after(0.2):
                await child.wait()
            written_unread = len(child.stderr.split())
            total = 1
            while total < 200:
                await lines.receive()
                total += 1

    assert written_unread < 50


async def test_line_of_100_mb_is_refused_at_the_limit_and_every_later_read_says_so() -> None:
    program = "import sys\nwhile True: sys.stdout.write('x' * 1_000_000)"

    with anyio.fail_after(10):
        async with await ChildProcess.start(python(program)) as child:
            lines = messages_of(child)
            for _ in range(2):
                with pytest.raises(UpstreamProtocolError, match="a line exceeds the limit of 100000 bytes"):
                    await lines.receive()
            await child.stop(stdin_wait_s=0, term_wait_s=1)

    assert "exceeds the limit" in lines.closed


async def test_greeting_on_standard_output_is_skipped_and_counted() -> None:
    program = 'print(\'Server v1 ready\\n\\n42\\n"text"\\n{broken\\n\' + \'[{"id": 1}, {"id": 2}]\\n{"id": 3}\\r\')'

    with anyio.fail_after(10):
        async with await ChildProcess.start(python(program)) as child:
            lines = messages_of(child)
            got = [message["id"] async for message in lines]

    assert got == [1, 2, 3]
    assert lines.noise_lines == 4
    assert "exited with status 0" in lines.closed


async def test_child_that_only_talks_nonsense_is_declared_garbage() -> None:
    with anyio.fail_after(10):
        async with await ChildProcess.start(python("while True: print('nonsense')")) as child:
            with pytest.raises(UpstreamProtocolError, match="201 lines in a row were not JSON objects"):
                await messages_of(child).receive()
            await child.stop(stdin_wait_s=0, term_wait_s=1)


async def test_standard_error_is_kept_to_its_end_however_much_there_is() -> None:
    program = "import sys\nfor n in range(200_000): sys.stderr.write(f'line {n}\\n')"

    with anyio.fail_after(20):
        async with await ChildProcess.start(python(program, stderr_keep_bytes=1000)) as child:
            await child.wait()
            assert await child.receive() == b""

    assert len(child.stderr) <= 1000
    assert child.stderr.endswith("line 199999\n")


async def test_child_that_ends_with_its_input_is_not_signalled() -> None:
    program = "import sys, signal; signal.signal(15, lambda *_: sys.exit(9)); sys.stdin.read(); sys.exit(5)"

    with anyio.fail_after(10):
        child = await ChildProcess.start(python(program))
        status = await child.stop(stdin_wait_s=5)

    assert status == 5


async def test_child_that_ignores_the_end_of_its_input_gets_sigterm() -> None:
    program = (
        "import sys, signal, time; signal.signal(15, lambda *_: sys.exit(9)); print('{}', flush=True); time.sleep(600)"
    )

    with anyio.fail_after(10):
        child = await ChildProcess.start(python(program))
        await messages_of(child).receive()
        status = await child.stop(stdin_wait_s=0.05, term_wait_s=5)

    assert status == 9


async def test_child_that_ignores_everything_is_killed_with_its_whole_tree() -> None:
    with anyio.fail_after(10):
        child = await ChildProcess.start(python(TREE))
        with watched(await reported_pids(messages_of(child))) as processes:
            status = await child.stop(stdin_wait_s=0.05, term_wait_s=0.05)
            await all_ended(processes)

    assert status == 128 + signal.SIGKILL


async def test_end_of_the_command_ends_its_daemons() -> None:
    with anyio.fail_after(10):
        child = await ChildProcess.start(python(TREE, "exit"))
        with watched(await reported_pids(messages_of(child))) as processes:
            status = await child.stop(stdin_wait_s=5)
            await all_ended(processes)

    assert status == 7


async def test_cancelled_stop_still_kills_the_tree() -> None:
    with anyio.fail_after(10):
        child = await ChildProcess.start(python(TREE))
        with watched(await reported_pids(messages_of(child))) as processes:
            with anyio.move_on_after(0.05):
                await child.stop(stdin_wait_s=60)
            await all_ended(processes)
        await child.wait()


async def test_cancelled_owner_leaves_nothing_behind() -> None:
    with anyio.fail_after(15):
        with anyio.CancelScope() as scope:
            async with await ChildProcess.start(python(TREE)) as child:
                pids = await reported_pids(messages_of(child))
                with watched(pids) as processes:
                    scope.cancel()
                    with anyio.CancelScope(shield=True):
                        await child.stop(stdin_wait_s=0, term_wait_s=0)
                        await all_ended(processes)

    assert len(pids) == TREE_SIZE


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_gateway_that_is_killed_takes_the_whole_tree_with_it(how: signal.Signals) -> None:
    gateway = (sys.executable, "-c", GATEWAY, TREE)

    with anyio.fail_after(15):
        async with await anyio.open_process(gateway, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            lines = messages_of(_Output(process))  # type: ignore[arg-type]  # it only receives
            with watched(await reported_pids(lines)) as processes:
                process.send_signal(how)
                await all_ended(processes)


class _Output:
    """The output of a process that is not ours to supervise."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process

    async def receive(self) -> bytes:
        assert self._process.stdout is not None
        return await self._process.stdout.receive()


@pytest.mark.parametrize("environ", ["marked", "bare"])
async def test_killed_reaper_does_not_save_the_tree(environ: str) -> None:
    with anyio.fail_after(10):
        child = await ChildProcess.start(python(TREE, environ))
        pids = await reported_pids(messages_of(child))
        reaper_pid = pids[1]
        killable = pids if environ == "marked" else [pids[0], reaper_pid, pids[4]]
        with watched(killable) as processes, watched(pids) as everybody:
            os.kill(reaper_pid, signal.SIGKILL)
            await all_ended(processes)
            for fd in everybody:
                _kill_quietly(fd)  # an emptied environment in a session of its own is what nobody can trace
            await all_ended(everybody)
        status = await child.stop()

    assert status == 128 + signal.SIGKILL


def _kill_quietly(fd: int) -> None:
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    except ProcessLookupError:
        return


async def test_cancelled_start_leaves_nothing_behind() -> None:
    with anyio.fail_after(10):
        for delay_s in (0.0, 0.005, 0.02):
            with anyio.move_on_after(delay_s):
                async with await ChildProcess.start(python("import time; time.sleep(600)", "marker-of-this-test")):
                    await anyio.sleep_forever()
        while _running_with(b"marker-of-this-test"):
            await anyio.lowlevel.checkpoint()


def _running_with(argument: bytes) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().split(b"\0")
        except OSError:  # gone meanwhile
            continue
        if argument in words and b"-m" not in words:
            found.append(int(place.parent.name))
    return found


async def test_twenty_children_start_and_end_at_once() -> None:
    async def converse(number: int) -> None:
        async with await ChildProcess.start(python(ECHO)) as child:
            lines = messages_of(child)
            await lines.send({"n": number})
            answers.append((await lines.receive())["n"])

    answers: list[object] = []
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(converse, number)

    assert sorted(answers, key=str) == sorted(range(20), key=str)


def test_descendants_are_found_through_any_depth_and_any_loop() -> None:
    parents = {1: 0, 10: 1, 11: 10, 12: 11, 20: 1, 30: 31, 31: 30}

    assert reaper.below(10, parents) == {11, 12}
    assert reaper.below(30, parents) == {31}
    assert reaper.below(99, parents) == set()


def test_process_table_reads_the_same_from_ps_as_from_proc() -> None:
    if not Path("/bin/ps").exists():
        pytest.skip("needs /bin/ps: install procps")

    assert reaper.parents_from_ps()[os.getpid()] == reaper.parents_from_proc()[os.getpid()] == os.getppid()


async def test_children_leave_no_open_file_behind() -> None:
    async def once() -> int:
        async with await ChildProcess.start(python(ECHO)) as child:
            await messages_of(child).send({})
        return len(os.listdir("/dev/fd"))

    with anyio.fail_after(30):
        await once()
        counts = {await once() for _ in range(10)}

    assert max(counts) - min(counts) <= 1

"""The agent alone, over its own protocol, as the system's Python runs it in a box."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest

from sandboxes.code.environment import AGENT, INTERPRETER
from sandboxes.inside import GUEST_SOURCE

PYTHON: Final = INTERPRETER if os.path.exists(INTERPRETER) else sys.executable
RUN: Final = {"op": "exec", "wall_s": 20, "limit": 1000}


class Talk:
    """A running agent. Every answer is waited for; the test's time limit is the process's own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.number = 0

    def say(self, **request: object) -> int:
        self.number += 1
        self.write(json.dumps({"id": self.number, **request}).encode() + b"\n")
        return self.number

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return cast("dict[str, Any]", json.loads(self.process.stdout.readline()))

    def ask(self, **request: object) -> dict[str, Any]:
        number = self.say(**request)
        answer = self.hear()
        assert answer["id"] == number
        return answer

    def run(self, code: str, language: str = "python", **more: object) -> dict[str, Any]:
        answer = self.ask(**{**RUN, "language": language, "code": code, **more})
        ok = cast("dict[str, Any]", answer["ok"])
        return ok | {name: text_of(ok[name]) for name in ("stdout", "stderr")}


def text_of(output: dict[str, Any]) -> str:
    return (base64.b64decode(output["head"]) + base64.b64decode(output["tail"])).decode()


@contextmanager
def an_agent(directory: Path, **env: str) -> Iterator[Talk]:
    (directory / "work").mkdir()
    (directory / "tmp").mkdir()
    script = GUEST_SOURCE / AGENT
    command = (PYTHON, "-I", "-S", "-B", str(script), str(directory / "work"), str(directory / "tmp"), "--content=x")
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", **env}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        try:
            yield Talk(process)
        finally:
            process.kill()


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    with an_agent(tmp_path) as found:
        yield found


def test_it_ends_with_its_input_and_takes_everything_along(talk: Talk, tmp_path: Path) -> None:
    talk.say(**RUN, language="shell", code="setsid sleep 300 & echo $! > pid; sleep 300")
    pid = _pid_in(tmp_path / "work" / "pid")
    assert talk.process.stdin is not None

    talk.process.stdin.close()

    assert talk.process.wait(10) == 0
    assert not _alive(pid)


def _pid_in(path: Path) -> int:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().strip():
            return int(path.read_text())
    raise AssertionError("it did not begin")


def _alive(pid: int) -> bool:
    try:
        return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


def test_a_cancelled_run_is_told_as_such_and_leaves_no_process(talk: Talk, tmp_path: Path) -> None:
    number = talk.say(**RUN, language="shell", code="(setsid setsid sleep 300 & echo $! > pid); sleep 300")
    pid = _pid_in(tmp_path / "work" / "pid")

    stop = talk.say(op="cancel", target=number)
    answers = {answer["id"]: answer["ok"] for answer in (talk.hear(), talk.hear())}

    assert answers[stop] == {}
    assert (answers[number]["cancelled"], answers[number]["timed_out"], answers[number]["status"]) == (True, False, 137)
    assert not _alive(pid)


def test_a_cancellation_of_another_run_does_nothing(talk: Talk) -> None:
    assert talk.ask(op="cancel", target=99)["ok"] == {}
    assert talk.run("print(1)")["stdout"] == "1\n"


def test_files_can_be_had_while_something_runs_but_not_a_second_run(talk: Talk, tmp_path: Path) -> None:
    first = talk.say(**RUN, language="shell", code="echo 1 > pid; read wait", stdin="")
    talk.hear()  # its input is at its end
    second = talk.say(**RUN, language="shell", code="echo 1 > pid2; while [ ! -e go ]; do sleep 0.01; done")
    _pid_in(tmp_path / "work" / "pid2")

    busy = talk.ask(**RUN, language="shell", code="true")
    listed = talk.ask(op="list", path="", limit=10)
    talk.ask(op="put", path="go", data="")

    assert busy["error"] == "busy"
    assert [entry["path"] for entry in listed["ok"]["entries"]] == ["pid", "pid2"]
    assert (talk.hear()["id"], first) == (second, 1)


def test_a_fork_bomb_is_over_when_the_run_is(talk: Talk) -> None:
    # bounded, since nothing here limits it; each forks on until it is killed
    code = """
import os, time
deadline = time.monotonic() + 30
for _ in range(40):
    if os.fork() == 0:
        os.setsid()
        while time.monotonic() < deadline:
            pid = os.fork()
            if pid == 0: os._exit(0)
            os.waitpid(pid, 0)
        os._exit(0)
"""

    answer = talk.run(code)

    assert (answer["status"], answer["survivors"]) == (0, 0)
    assert talk.run("print(1)")["stdout"] == "1\n"


def test_who_was_there_before_is_left_alone(tmp_path: Path) -> None:
    """Whatever starts the agent may leave it a child, such as the relay to the network: that is no run's."""
    (tmp_path / "work").mkdir()
    (tmp_path / "tmp").mkdir()
    words = (PYTHON, "-ISB", str(GUEST_SOURCE / AGENT), str(tmp_path / "work"), str(tmp_path / "tmp"))
    shell = f"sleep 300 & echo $! > {tmp_path}/relay; exec {' '.join(words)}"
    with subprocess.Popen(("sh", "-c", shell), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        talk = Talk(process)
        relay = _pid_in(tmp_path / "relay")
        try:
            status = talk.run("sleep 300 & sleep 0.05", "shell")["status"]

            assert (status, _alive(relay)) == (0, True)
        finally:
            process.kill()
            os.kill(relay, 9)


def test_input_reaches_the_program_and_one_that_does_not_read_it_still_ends(talk: Talk) -> None:
    long = base64.b64encode(b"x" * 1_000_000).decode()

    counted = talk.run("import sys; print(len(sys.stdin.read()))", stdin=long)
    ignored = talk.run("print('no')", stdin=long)
    argued = talk.ask(**RUN, argv=["wc", "-c"], stdin=long)

    assert (counted["stdout"], ignored["stdout"]) == ("1000000\n", "no\n")
    assert text_of(argued["ok"]["stdout"]).strip() == "1000000"


def test_output_within_the_limit_is_whole_and_beyond_it_keeps_both_ends(talk: Talk) -> None:
    whole = talk.run("print('x' * 999)")
    cut = talk.ask(**RUN, language="python", code="print('a' * 5_000_000 + 'b')")["ok"]

    assert (len(whole["stdout"]), cut["stdout"]["cut"]) == (1000, 5_000_002 - 1000)
    assert base64.b64decode(cut["stdout"]["head"]) == b"a" * 500
    assert base64.b64decode(cut["stdout"]["tail"]) == b"a" * 498 + b"b\n"


def test_variables_are_given_to_what_runs_and_only_proper_ones_are_taken(talk: Talk) -> None:
    talk.ask(op="env", set={"TOKEN": "t"})

    wrong = [talk.ask(op="env", set=given)["error"] for given in ({"A=B": "x"}, {"": "x"}, {"A": 5}, {"A": "\0"})]

    assert wrong == ["invalid"] * 4
    assert talk.run("import os; print(os.environ['TOKEN'], 'A' in os.environ)")["stdout"] == "t False\n"


def test_entropy_goes_to_the_kernel_where_it_may(talk: Talk) -> None:
    answer = talk.ask(op="seed", data=base64.b64encode(b"x" * 32).decode(), set={"TOKEN": "t"})

    assert set(answer["ok"]) == {"urandom", "reseeded"}
    assert talk.run("echo $TOKEN", "shell")["stdout"] == "t\n"


def test_requests_that_make_no_sense_are_refused_and_harm_nothing(talk: Talk) -> None:
    talk.write(b"no json\n[]\n{}\n")

    answers = [
        talk.ask(op="dance"),
        talk.ask(op="put", path="f"),
        talk.ask(op="put", path=5, data=""),
        talk.ask(op="put", path="a\0b", data=""),
        talk.ask(op="get", path="f", offset="x", limit=1),
        talk.ask(**RUN, language="perl", code="1"),
        talk.ask(**{**RUN, "wall_s": "long"}, language="python", code="1"),
        talk.ask(**RUN, argv=[]),
        talk.ask(**RUN, argv=["no-such-program"]),
        talk.ask(op="list", path="none", limit=1),
    ]

    codes = [answer["error"] for answer in answers]
    assert codes == [*["invalid"] * 8, "missing_interpreter", "ENOENT"]
    assert talk.ask(op="ping")["ok"]["version"] == 1
    assert not list(Path("/tmp").glob("run-nothing"))


def test_a_line_without_end_ends_it(talk: Talk) -> None:
    with pytest.raises(BrokenPipeError):
        talk.write(b"x" * 20_000_000)

    assert talk.process.wait(10) == 0


def test_a_run_works_with_no_room_for_its_code(tmp_path: Path) -> None:
    with an_agent(tmp_path) as talk:
        (tmp_path / "tmp").rmdir()
        answers = [talk.run("print('py')"), talk.run("echo sh", "shell")]

    assert [answer["stdout"] for answer in answers] == ["py\n", "sh\n"]


def test_nothing_of_the_code_is_left_in_the_scratch_directory(talk: Talk, tmp_path: Path) -> None:
    talk.run("print(1)")
    talk.ask(**RUN, argv=["none"])

    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_unreadable_directory_is_left_out_of_what_is_seen(talk: Talk, tmp_path: Path) -> None:
    for number in range(40):
        directory = "/".join(["d"] * number)
        (tmp_path / "work" / directory).mkdir(exist_ok=True)

    entries = talk.ask(op="list", path="", limit=100)["ok"]["entries"]
    part = talk.ask(op="list", path="d/d", limit=100)["ok"]["entries"]
    few = talk.ask(op="list", path="", limit=5)["ok"]

    assert len(entries) == 32  # no deeper
    assert part[0]["path"] == "d/d/d"
    assert (len(few["entries"]), few["complete"]) == (5, False)


def test_renames_and_removals_are_no_new_content_but_new_names_are(talk: Talk) -> None:
    talk.run("open('a', 'w').write('1'); open('b', 'w').write('2')")

    answer = talk.run("import os; os.rename('a', 'c'); os.remove('b'); os.mkdir('d'); os.symlink('c', 'l')")

    assert [(file["path"], file["change"]) for file in answer["files"]] == [("c", "new")]


def test_javascript_takes_its_code_as_its_input(talk: Talk) -> None:
    if shutil.which("node", path="/usr/local/bin:/usr/bin:/bin") is None:
        pytest.skip("node: apt-get install nodejs")

    script = talk.run("console.log(require('path').basename('/a/b'), typeof module)", "javascript")
    module = talk.run("export const a = 1; console.log(a)", "javascript")

    assert (script["stdout"], module["stdout"]) == ("b object\n", "1\n")

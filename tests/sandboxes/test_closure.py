"""A command's closure is what it needs to run in a box, and nothing beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ConfigError
from sandboxes.closure import BOX_PATH, Closure, closure_of, in_base
from sandboxes.covers import admitted
from sandboxes.guarded import guarded


def program(path: Path, text: str = "\x7fELF") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def of(*command: object, path: Path | str = "", cwd: Path = Path("/")) -> Closure:
    return closure_of([str(word) for word in command], {"PATH": f"{path}:{BOX_PATH}"}, cwd)


def shown(closure: Closure) -> dict[str, str]:
    assert not any(bind.writable for bind in closure.binds)
    assert set(closure.reasons) == {bind.place for bind in closure.binds}
    return {bind.place: str(bind.source) for bind in closure.binds}


def only(*places: Path) -> dict[str, str]:
    return {str(place): str(place) for place in places}


def python_prefix(prefix: Path) -> Path:
    (prefix / "lib/python3.12").mkdir(parents=True)
    return program(prefix / "bin/python3.12")


def venv(root: Path, interpreter: Path) -> Path:
    (root / "bin").mkdir(parents=True)
    (root / "pyvenv.cfg").write_text(f"home = {interpreter.parent}\ninclude-system-site-packages = false\n")
    (root / "bin/python").symlink_to(interpreter)
    (root / "bin/python3").symlink_to("python")
    return root


def test_what_is_in_usr_needs_nothing() -> None:
    closure = of("sh", "-c", "true")

    assert closure == Closure(("/usr/bin/sh", "-c", "true")) or closure == Closure(("/bin/sh", "-c", "true"))


def test_link_in_usr_is_kept_since_programs_may_go_by_their_name() -> None:
    links = [entry for entry in Path("/usr/bin").iterdir() if entry.is_symlink() and in_base(entry.resolve())]
    link = next(entry for entry in links if os.access(entry, os.X_OK) and entry.resolve().name != entry.name)

    assert of(link).command == (str(link),)


def test_program_in_a_directory_of_its_own_is_shown_with_it(tmp_path: Path) -> None:
    tool = program(tmp_path / "tool/run")

    closure = of(tool, "--flag")

    assert closure.command == (str(tool), "--flag")
    assert shown(closure) == only(tmp_path / "tool")


def test_program_among_others_is_shown_alone(tmp_path: Path) -> None:
    tool = program(tmp_path / "bin/tool")
    program(tmp_path / "bin/other")

    assert shown(of("tool", path=tmp_path / "bin")) == only(tool)


def test_link_to_a_program_is_followed_to_where_it_is_installed(tmp_path: Path) -> None:
    tool = program(tmp_path / "opt/tool-1.2/tool")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tool").symlink_to("../opt/current/tool")
    (tmp_path / "opt/current").symlink_to("tool-1.2")

    closure = of("tool", path=tmp_path / "bin")

    assert closure.command == (str(tool),)
    assert shown(closure) == only(tool.parent)


def test_virtual_environment_comes_with_the_python_it_was_made_from(tmp_path: Path) -> None:
    interpreter = python_prefix(tmp_path / "python")
    root = venv(tmp_path / "venv", interpreter)

    closure = of(root / "bin/python3", "-m", "server")

    assert closure.command == (str(root / "bin/python3"), "-m", "server")
    assert shown(closure) == only(tmp_path / "python", root)


def test_virtual_environment_of_the_systems_python_comes_alone(tmp_path: Path) -> None:
    root = venv(tmp_path / "venv", Path("/usr/bin/python3"))

    assert shown(of(root / "bin/python")) == only(root)


def test_python_that_is_reached_over_a_link_is_shown_at_both_paths(tmp_path: Path) -> None:
    python_prefix(tmp_path / "cpython-3.12.5")
    (tmp_path / "cpython-3.12").symlink_to("cpython-3.12.5")
    root = venv(tmp_path / "venv", tmp_path / "cpython-3.12/bin/python3.12")

    found = shown(of(root / "bin/python"))

    assert found == only(root, tmp_path / "cpython-3.12.5") | {
        str(tmp_path / "cpython-3.12"): str(tmp_path / "cpython-3.12.5")
    }


def test_installed_command_of_a_virtual_environment_brings_the_environment(tmp_path: Path) -> None:
    root = venv(tmp_path / "venv", python_prefix(tmp_path / "python"))
    command = program(root / "bin/server", f"#!{root}/bin/python\nimport x\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/server").symlink_to(command)

    closure = of("server", path=tmp_path / "bin")

    assert closure.command == (str(command),)
    assert shown(closure) == only(tmp_path / "python", root)


def test_interpreter_is_there_under_the_path_that_the_script_names(tmp_path: Path) -> None:
    root = venv(tmp_path / "real", python_prefix(tmp_path / "python"))
    (tmp_path / "link").symlink_to("real")
    script = program(tmp_path / "bin/server", f"#!{tmp_path}/link/bin/python\n")

    found = shown(of("server", path=tmp_path / "bin"))

    assert found == only(tmp_path / "python", root, script) | {
        str(tmp_path / "link/bin/python"): str(tmp_path / "python/bin/python3.12")
    }


def test_script_that_asks_env_finds_its_interpreter_in_the_box(tmp_path: Path) -> None:
    (tmp_path / "node/lib/node_modules").mkdir(parents=True)
    program(tmp_path / "node/bin/node")
    script = program(tmp_path / "node/lib/node_modules/server/index.js", "#!/usr/bin/env -S node --flag\n")
    (tmp_path / "node/bin/server").symlink_to("../lib/node_modules/server/index.js")

    closure = of("server", path=tmp_path / "node/bin")

    assert closure.command == (str(script),)
    assert shown(closure) == only(tmp_path / "node")
    assert closure.env == {"PATH": f"{tmp_path}/node/bin:{BOX_PATH}"}


def test_interpreter_that_env_reaches_over_a_link_is_found_under_that_name(tmp_path: Path) -> None:
    python_prefix(tmp_path / "python")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").symlink_to(tmp_path / "python/bin/python3.12")
    script = program(tmp_path / "bin/server", "#!/usr/bin/env python3\n")

    closure = of("server", path=tmp_path / "bin")

    assert shown(closure) == only(tmp_path / "python", script) | {
        str(tmp_path / "bin/python3"): str(tmp_path / "python/bin/python3.12")
    }
    assert closure.env["PATH"].startswith(f"{tmp_path}/bin:")


def test_packages_of_node_are_shown_up_to_the_outermost_directory(tmp_path: Path) -> None:
    script = program(tmp_path / "app/node_modules/a/node_modules/b/cli.js", "#!/usr/bin/env sh\n")

    closure = of(script)

    assert shown(closure) == only(tmp_path / "app/node_modules")
    assert closure.env == {}


def test_script_given_by_its_full_path_is_shown_alone(tmp_path: Path) -> None:
    script = program(tmp_path / "project/server.py", "import secrets_beside_it\n")
    script.chmod(0o644)
    (tmp_path / "project/.env").write_text("KEY=1")

    assert shown(of("python3", script)) == only(script)
    assert shown(of("python3", "server.py", cwd=tmp_path / "project")) == {}
    assert shown(of("python3", tmp_path / "nothing.py")) == {}
    assert shown(of("true", script)) == {}


def test_program_by_a_relative_path_is_looked_for_where_it_runs(tmp_path: Path) -> None:
    tool = program(tmp_path / "tools/run", "#!/bin/sh\n")

    assert of("./run", cwd=tmp_path / "tools").command == (str(tool),)


@pytest.mark.parametrize("name", ["no-such-program", "/no/such/program", "."])
def test_program_that_is_not_there_is_said(name: str) -> None:
    with pytest.raises(ConfigError, match=r"upstreams\.x\.command: .* is no program here"):
        closure_of([name], {}, key="upstreams.x.command")


def test_empty_command_is_said() -> None:
    with pytest.raises(ConfigError, match="command: is empty"):
        closure_of([], {})


def test_shim_of_a_version_manager_is_refused_with_the_way_out(tmp_path: Path) -> None:
    program(tmp_path / ".pyenv/shims/python3", "#!/bin/sh\n")

    with pytest.raises(ConfigError, match=r"give its full path \(`pyenv which python3` says it\)"):
        of("python3", path=tmp_path / ".pyenv/shims")


@pytest.mark.parametrize("name", ["npx", "uvx"])
def test_what_fetches_its_program_is_warned_of(name: str, tmp_path: Path) -> None:
    program(tmp_path / "bin" / name)

    (note,) = of(name, "server", path=tmp_path / "bin").notes

    assert "fetches what it runs" in note


@pytest.mark.parametrize(
    "head",
    ["#!", "#!/usr/bin/env", "#!/usr/bin/env -S", "#!/usr/bin/env 'x", "#!/no/such/interpreter", "#! /bin/sh -e"],
)
def test_odd_first_lines_need_nothing_more(head: str, tmp_path: Path) -> None:
    script = program(tmp_path / "tool/run", head + "\n")

    assert shown(of(script)) in (only(script), only(script.parent))


def test_interpreters_of_interpreters_come_to_an_end(tmp_path: Path) -> None:
    script = program(tmp_path / "bin/loop", f"#!{tmp_path}/bin/loop\n")

    assert shown(of(script, path=tmp_path / "bin")) == only(script)


def test_links_without_an_end_are_no_program(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    with pytest.raises(ConfigError, match="is no program"):
        of(tmp_path / "a")


def test_home_of_a_person_is_not_bound_for_a_program_in_it(tmp_path: Path) -> None:
    tool = program(tmp_path / "home/tool")
    guard = guarded({}, {}, homes=[tmp_path / "home"], environ={})

    with pytest.raises(ConfigError, match="the home of a person"):
        admitted(of(tool).binds, guard, "command")


def test_python_of_this_very_process_runs_with_its_closure_alone() -> None:
    closure = closure_of([sys.executable, "-c", "import anyio; print('ran')"], os.environ)
    if not all(bind.source == Path(bind.place) for bind in closure.binds):
        pytest.skip("this Python is reached over links, which bwrap's plain --ro-bind shows elsewhere")
    binds = [word for bind in closure.binds for word in ("--ro-bind", str(bind.source), bind.place)]
    links = [word for top in ("bin", "lib", "lib64") for word in ("--symlink", f"usr/{top}", f"/{top}")]
    try:
        done = subprocess.run(
            ["bwrap", "--unshare-all", "--ro-bind", "/usr", "/usr", *links, "--dev", "/dev", *binds, *closure.command],
            capture_output=True, text=True, timeout=60, check=False, env={},
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("bwrap is not here: apt-get install bubblewrap")

    assert (done.stdout, done.returncode) == ("ran\n", 0), done.stderr


@given(st.lists(st.text(st.sampled_from("/.abpython node"), max_size=12), max_size=3))
@settings(max_examples=50)
def test_no_command_does_worse_than_a_configuration_error(command: list[str]) -> None:
    with suppress(ConfigError):
        for bind in closure_of(command, {"PATH": "/usr/bin::x"}).binds:
            assert not bind.writable


@given(st.binary(max_size=80))
@settings(max_examples=50)
def test_no_first_line_does_worse_than_a_configuration_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    script = program(tmp_path_factory.mktemp("x") / "run")
    script.write_bytes(b"#!" + content)

    with suppress(ConfigError):
        assert of(script).binds


def test_program_is_not_looked_for_where_the_working_directory_happens_to_be(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "tool").chmod(0o755)

    with pytest.raises(ConfigError, match="'tool' is no program here"):
        closure_of(("tool",), {"PATH": f"bin:.:{os.pathsep}"}, tmp_path)

"""`interlock check` prints every fault at once and says with its exit code whether there is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli import main

FAULTY = '[listen]\nprt = 1\nport = "x"\n[upstreams.a]\ntype = "mcp"\n'


def write(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "interlock.toml").write_text(text)
    return ["check", "--config", str(tmp_path / "interlock.toml")]


def test_good_configuration_is_said_to_be_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(write(tmp_path, "[listen]\nport = 9000\n"))

    assert code == 0
    assert "good; 0 upstreams, engine embedded, http://127.0.0.1:9000" in capsys.readouterr().out


def test_programs_that_came_with_the_gateway_are_found_whatever_the_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    section = '[upstreams.{}]\ntype = "mcp"\ncommand = ["{}"]\n'

    code = main(write(tmp_path, section.format("own", "pytest") + section.format("none", "nobody-has-this")))

    assert code == 1
    lines = capsys.readouterr().out.splitlines()
    assert ["upstreams.none" in line for line in lines[:-1]] == [True]


def test_every_fault_is_printed_with_its_path_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(write(tmp_path, FAULTY))

    assert code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "listen.port: must be a valid integer (line 3)"
    assert lines[1] == "listen.prt: unknown key; did you mean 'port'? (line 2)"
    assert lines[2].startswith("upstreams.a: needs either url")
    assert lines[3].endswith("interlock.toml: 3 faults")


def test_faults_come_as_json_for_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([*write(tmp_path, FAULTY), "--json"])

    answer = json.loads(capsys.readouterr().out)
    assert code == 1
    assert not answer["ok"]
    assert [fault["path"] for fault in answer["faults"]] == ["listen.port", "listen.prt", "upstreams.a"]


def test_policies_that_are_not_there_are_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(write(tmp_path, '[policy]\npath = "rules"\n'))

    assert code == 1
    assert f"policy.path: {tmp_path / 'rules'} does not exist" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("bad.rego", "package rules.bad\n\nallow if {\n", "bad.rego:"),
        ("own_test.rego", "package tests.own\n\ntest_nothing if 1 == 2\n", "test_nothing"),
        ("cases/own.json", '[{"name": "nobody may", "input": {}, "expect": {"decision": true}}]', "nobody may"),
    ],
    ids=["rules", "tests", "cases"],
)
def test_policies_that_a_gateway_would_refuse_to_start_with_are_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, told: str
) -> None:
    file = tmp_path / "rules" / name
    file.parent.mkdir(parents=True)
    (tmp_path / "rules" / "own.rego").write_text("package rules.own\n\ndefault allow := false\n")
    file.write_text(text)
    words = write(tmp_path, '[policy]\npath = "rules"\n')

    assert main([*words, "--json"]) == 1

    faults = json.loads(capsys.readouterr().out)["faults"]
    assert [(fault["path"], told in fault["what"]) for fault in faults] == [("policy.path", True)]


def test_directory_of_an_upstream_that_is_not_there_is_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(write(tmp_path, '[upstreams.a]\ntype = "mcp"\ncommand = ["x"]\ncwd = "gone"\n'))

    assert code == 1
    assert "upstreams.a.cwd" in capsys.readouterr().out


def test_secrets_are_followed_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    words = write(
        tmp_path, '[upstreams.a]\ntype = "mcp"\nurl = "http://127.0.0.1:1/"\nheaders = { X-Key = "env:NOT_THERE" }\n'
    )

    assert main(words) == 0
    assert main([*words, "--secrets"]) == 1
    assert "upstreams.a.headers.X-Key: env:NOT_THERE the environment variable" in capsys.readouterr().out


def test_configuration_is_found_through_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "[listen]\n")
    monkeypatch.setenv("INTERLOCK_CONFIG", str(tmp_path / "interlock.toml"))

    assert main(["check"]) == 0
    assert str(tmp_path) in capsys.readouterr().out


def test_missing_configuration_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["check", "--config", str(tmp_path / "none.toml")])

    assert code == 1
    assert "`interlock up` writes one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("upstream", "fault"),
    [
        ('command = ["not-there-at-all"]', "upstreams.a.command: 'not-there-at-all' is no program here"),
        (
            'command = ["sh"]\nenvironment = "dta"',
            "upstreams.a.environment: there is no environment 'dta'; there are: ",
        ),
        ('command = ["sh"]\nbinds = ["data", "/etc/shadow"]', "upstreams.a.binds[1]: /etc/shadow is password hashes"),
        ('command = ["sh"]\nbinds = ["key.txt"]', "upstreams.a.binds[0]: "),
        ('command = ["sh"]\nbinds = ["data:/usr/x"]', "upstreams.a.binds[0]: '/usr/x' is something that each box has"),
        ('command = ["sh"]\nbinds = ["data:rw", "data/inner"]', "upstreams.a.binds[1]: "),
    ],
)
def test_box_that_there_can_be_none_of_is_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], upstream: str, fault: str
) -> None:
    (tmp_path / "data" / "inner").mkdir(parents=True)
    (tmp_path / "key.txt").write_text("s3cret")
    text = f'[upstreams.a]\ntype = "mcp"\n{upstream}\n[upstreams.a.env]\nTOKEN = "file:key.txt"\n'

    code = main(write(tmp_path, text))

    assert code == 1
    assert fault in capsys.readouterr().out


def test_fault_of_an_environment_is_told_with_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "environments").mkdir()
    (tmp_path / "environments" / "data.toml").write_text('level = "iron"\nbinds = ["/etc/shadow"]\n')

    code = main(write(tmp_path, '[upstreams.code]\ntype = "sandbox"\n'))

    assert code == 1
    assert "data.toml: level: must be " in capsys.readouterr().out


def test_environment_of_the_code_server_has_to_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(write(tmp_path, '[upstreams.code]\ntype = "sandbox"\nenvironment = "data"\n'))

    assert code == 1
    assert "upstreams.code.environment: there is no environment 'data'; there are: default" in capsys.readouterr().out


def test_upstream_on_the_host_or_elsewhere_needs_no_box(tmp_path: Path) -> None:
    text = '[upstreams.a]\ntype = "mcp"\ncommand = ["not-there"]\nsandbox = "none"\n'

    text += '[upstreams.code]\ntype = "sandbox"\n'
    assert main(write(tmp_path, text + '[upstreams.b]\ntype = "mcp"\nurl = "http://127.0.0.1:1/"\n')) == 0


def test_state_too_deep_for_the_sockets_of_boxes_is_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))

    code = main(write(tmp_path, f'[state]\ndir = "{deep}"\n'))

    assert code == 1
    assert "state.dir: no place for the sockets of boxes" in capsys.readouterr().out


def test_agents_are_counted_and_their_secrets_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    words = write(
        tmp_path, '[agents.a]\ncard_url = "http://127.0.0.1:1/"\nheaders = { Authorization = "Bearer env:NOT_THERE" }\n'
    )

    assert main(words) == 0
    assert "good; 0 upstreams, 1 agent, engine embedded" in capsys.readouterr().out
    assert main([*words, "--secrets"]) == 1
    assert "agents.a.headers.Authorization: env:NOT_THERE the environment variable" in capsys.readouterr().out


def test_grpc_without_its_packages_is_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.app.a2a.find_spec", lambda name: None)

    assert main(write(tmp_path, "[listen]\ngrpc_port = 9000\n")) == 1

    assert "listen.grpc_port: needs the packages of the extra `grpc`: pip install" in capsys.readouterr().out


def test_what_is_wrong_with_the_files_beside_it_is_said_as_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "memory.toml").write_text("[namespaces.law]\nlegal_hodl = true\n")
    (tmp_path / "models.toml").write_text("[routes.auto]\nstrnog = 1\n")
    code = main(write(tmp_path, '[upstreams.a]\ntype = "memory"\n[upstreams.b]\ntype = "memory"\n'))

    out = capsys.readouterr().out
    assert code == 1
    assert "memory.toml: namespaces.law.legal_hodl: unknown key; did you mean 'legal_hold'? (line 2)" in out
    assert "models.toml: routes.auto" in out
    assert "upstreams.b.type: there is one memory, and it is upstreams.a: use namespaces" in out


def test_what_needs_an_extra_that_is_not_installed_is_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cli.check.find_spec", lambda name: None)
    (tmp_path / "memory.toml").write_text('[index]\nkind = "chroma"\n[embedder]\nkind = "minilm"\n')
    code = main(write(tmp_path, '[upstreams.a]\ntype = "memory"\n[upstreams.b]\ntype = "litellm"\n'))

    out = capsys.readouterr().out
    assert code == 1
    assert "upstreams.b.type: needs litellm, which is not installed: install the extra 'models'" in out
    assert "memory.toml: index.kind: needs chromadb, which is not installed: install the extra 'memory'" in out
    assert "memory.toml: embedder.kind: needs onnxruntime, which is not installed" in out

"""`interlock policy promote` puts exactly one known revision in place, or does nothing at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import codec
from gateway.app.shadow_engines import candidate_revision
from gateway.cli import main
from gateway.cli.main import CANNOT, NOT_AS_IT_SHOULD_BE, OK
from gateway.config import Settings, load
from gateway.shadow import Comparison, Report, write_report
from tests.shadow.test_tap import ALLOW, DENY, policy, settings


def revisions(found: Settings) -> tuple[str, str]:
    """Of the active policy, and of the candidate."""
    assert found.policy.candidate is not None
    return (
        candidate_revision(found.policy, found.policy.path),
        candidate_revision(found.policy, found.policy.candidate),
    )


def compared(found: Settings, *kinds: str) -> None:
    """Write down that both were compared, and differed so."""
    comparison = Comparison(*revisions(found), compared=1 + len(kinds))
    for kind in kinds:
        comparison.divergences.add((kind, "mcp.tools.call", "shop/buy", ""), "d1")
    write_report(found.state.dir, codec.dumps(Report("next", comparison=comparison).plain()))


def promote(root: Path, revision: str, *words: str) -> int:
    return main(["policy", "promote", "--config", str(root / "interlock.toml"), "--revision", revision, *words])


def in_place(root: Path) -> str:
    return (root / "active" / "all.rego").read_text()


def test_the_candidate_takes_the_place_and_the_former_policy_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = settings(tmp_path, candidate=DENY)
    compared(found, "allow->deny")
    former = in_place(tmp_path)
    (tmp_path / "active" / ".git").mkdir()
    (tmp_path / "next" / ".git").write_text("of the candidate")

    code = promote(tmp_path, revisions(found)[1])

    [kept] = tmp_path.glob("active.*.bak")
    assert code == OK
    assert "closed" in in_place(tmp_path)
    assert (tmp_path / "active" / ".git").is_dir()
    assert (kept / "all.rego").read_text() == former
    assert f"mv {kept} {tmp_path / 'active'}" in capsys.readouterr().out
    assert not list(tmp_path.glob(".active.*"))
    assert len(set(revisions(load(tmp_path / "interlock.toml")))) == 1
    assert promote(tmp_path, revisions(found)[1]) == OK  # it is there already
    assert len(list(tmp_path.glob("active.*.bak"))) == 1


def test_another_revision_on_disk_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = settings(tmp_path, candidate=DENY)
    compared(found)
    shown = revisions(found)[1]
    policy(tmp_path / "next", f"{DENY}\n\n# changed since")

    code = promote(tmp_path, shown)

    assert code == NOT_AS_IT_SHOULD_BE
    assert f"not {shown}" in capsys.readouterr().err
    assert "closed" not in in_place(tmp_path)


def test_what_was_compared_with_nothing_needs_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = settings(tmp_path, candidate=DENY)
    revision = revisions(found)[1]

    refused = promote(tmp_path, revision)
    forced = promote(tmp_path, revision, "--force")

    assert (refused, forced) == (NOT_AS_IT_SHOULD_BE, OK)
    assert "was not compared" in capsys.readouterr().err


def test_a_comparison_with_another_active_policy_does_not_count(tmp_path: Path) -> None:
    found = settings(tmp_path, candidate=DENY)
    compared(found)
    policy(tmp_path / "active", f"{ALLOW}\n\n# changed since")

    assert promote(tmp_path, revisions(found)[1]) == NOT_AS_IT_SHOULD_BE


def test_newly_allowed_calls_have_to_be_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = settings(tmp_path, active=DENY, candidate=ALLOW)
    compared(found, "deny->allow")
    revision = revisions(found)[1]

    refused = promote(tmp_path, revision, "--force")
    wanted = promote(tmp_path, revision, "--allow-new")

    assert (refused, wanted) == (NOT_AS_IT_SHOULD_BE, OK)
    assert "deny->allow  mcp.tools.call  shop/buy" in capsys.readouterr().err


def test_what_others_named_cannot_move_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = settings(tmp_path, active=DENY, candidate=ALLOW)
    comparison = Comparison(*revisions(found), compared=1)
    comparison.divergences.add(("deny->allow", "mcp.tools.call", "shop/\x1b[2J\nall is well", ""), "d1")
    write_report(found.state.dir, codec.dumps(Report("next", comparison=comparison).plain()))

    main(["policy", "shadow", "--config", str(tmp_path / "interlock.toml")])
    promote(tmp_path, revisions(found)[1])

    told = capsys.readouterr()
    assert r"shop/\x1b[2J\x0aall is well" in told.out
    assert r"shop/\x1b[2J\x0aall is well" in told.err
    assert "\x1b" not in told.out + told.err


def test_a_candidate_that_could_not_be_activated_is_refused_even_by_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = settings(tmp_path, candidate="allow if nothing_of_that_name")

    code = promote(tmp_path, revisions(found)[1], "--force")

    assert code == NOT_AS_IT_SHOULD_BE
    assert "nothing_of_that_name" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"active", "interlock.toml", "next"}


def test_policies_that_come_with_interlock_are_never_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "interlock.toml"
    file.write_text(f'[state]\ndir = "{tmp_path}"\n[policy]\ncandidate = "{policy(tmp_path / "next", DENY)}"\n')

    code = promote(tmp_path, "sha256:0000000000000000", "--force")

    assert code == NOT_AS_IT_SHOULD_BE
    assert "set [policy] path to a directory of yours" in capsys.readouterr().err


def test_directories_within_each_other_are_refused(tmp_path: Path) -> None:
    settings(tmp_path)
    file = tmp_path / "interlock.toml"
    file.write_text(f'{file.read_text()}\ncandidate = "{policy(tmp_path / "active" / "next", DENY)}"\n')

    assert promote(tmp_path, "sha256:0000000000000000") == NOT_AS_IT_SHOULD_BE


def test_without_a_candidate_there_is_nothing_to_promote_or_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings(tmp_path)

    promoted = promote(tmp_path, "sha256:0000000000000000")
    shown = main(["policy", "shadow", "--config", str(tmp_path / "interlock.toml")])

    assert (promoted, shown) == (CANNOT, NOT_AS_IT_SHOULD_BE)
    assert "set [policy] candidate" in capsys.readouterr().out

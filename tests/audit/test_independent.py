"""A verifier written by others accepts our checkpoints, tiles and proofs, and refuses them when they are changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest

from gateway.audit.merkle import consistency_proof, inclusion_proof, leaf_hash
from gateway.audit.tiles import export_tiles, unpack_bundle
from tests.audit.records import write_log

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The `aics-tlog` command, installed into an environment of its own when it is not there."""
    found = os.environ.get("AICS_TLOG") or shutil.which("aics-tlog")
    if found:
        return found
    python = next(filter(_works, (sys.executable, "python3.14", "python3.13", "python3.12")), None)
    if python is None:
        pytest.skip("needs Python 3.12 or newer on PATH for aics-tlog (pip install aics-tlog), or AICS_TLOG set to it")
    place = tmp_path_factory.mktemp("aics")
    for command in ([python, "-m", "venv", str(place)], [f"{place}/bin/pip", "install", "-q", "aics-tlog==0.2.1"]):
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        if done.returncode:
            pytest.skip(f"aics-tlog cannot be installed here: {done.stderr.strip()[-200:]}")
    return f"{place}/bin/aics-tlog"


def _works(python: str) -> bool:
    check = [python, "-c", "import sys, venv; sys.exit(sys.version_info < (3, 12))"]
    return shutil.which(python) is not None and not subprocess.run(check, check=False, capture_output=True).returncode


def ask(verifier: str, *words: str | Path) -> tuple[bool, dict[str, object]]:
    done = subprocess.run([verifier, *map(str, words)], check=False, capture_output=True, text=True, timeout=60)
    report = json.loads(done.stdout)
    assert isinstance(report, dict)
    return done.returncode == 0, report


class Exported:
    """A log of 603 records, exported; the key kept elsewhere."""

    def __init__(self, place: Path) -> None:
        self.old = place / "old.note"
        self.old.write_text(write_log(place, [200]))
        write_log(place, [200, 200])
        export_tiles(place / "audit", place / "tiles")
        self.tiles = place / "tiles"
        self.key = place / "log.vkey"
        (self.tiles / "verifier.key").rename(self.key)
        bundles = sorted(path for path in (self.tiles / "tile/entries").rglob("*") if path.is_file())
        self.entries = [entry for path in bundles for entry in unpack_bundle(path.read_bytes())]
        self.leaves = [leaf_hash(entry) for entry in self.entries]


@pytest.fixture
def exported(tmp_path: Path) -> Exported:
    return Exported(tmp_path)


def test_checkpoint_is_accepted(verifier: str, exported: Exported) -> None:
    ok, report = ask(verifier, "verify-checkpoint", "--tiles", exported.tiles, "--vkey-file", exported.key)

    assert ok, report


@pytest.mark.parametrize("index", [0, 1, 255, 256, 300, 511, 512, 602])
def test_inclusion_is_proved_from_the_tiles(verifier: str, exported: Exported, index: int, tmp_path: Path) -> None:
    ok, report = ask(
        verifier,
        *("verify-inclusion", "--tiles", exported.tiles, "--vkey-file", exported.key),
        *("--index", str(index), "--entry-out", tmp_path / "entry"),
    )

    assert ok, report
    assert (tmp_path / "entry").read_bytes() == exported.entries[index]


def test_growth_is_proved_from_the_tiles(verifier: str, exported: Exported) -> None:
    ok, report = ask(
        verifier,
        *("verify-consistency", "--tiles", exported.tiles, "--vkey-file", exported.key),
        *("--old-checkpoint", exported.old),
    )

    assert ok, report


def test_proofs_are_accepted(verifier: str, exported: Exported, tmp_path: Path) -> None:
    size, root = len(exported.leaves), (exported.tiles / "checkpoint").read_text().split("\n")[2]
    old_size, old_root = exported.old.read_text().split("\n")[1:3]
    inclusion, consistency = tmp_path / "inclusion", tmp_path / "consistency"
    inclusion.write_text("".join(b64encode(node).decode() + "\n" for node in inclusion_proof(77, exported.leaves)))
    proof = consistency_proof(int(old_size), exported.leaves)
    consistency.write_text("".join(b64encode(node).decode() + "\n" for node in proof))

    included = ask(
        verifier,
        *("verify-inclusion", "--leaf-hash", exported.leaves[77].hex(), "--index", "77"),
        *("--size", str(size), "--root", root, "--proof", inclusion),
    )
    consistent = ask(
        verifier,
        *("verify-consistency", "--old-size", old_size, "--new-size", str(size)),
        *("--old-root", old_root, "--new-root", root, "--proof", consistency),
    )

    assert included[0], included
    assert consistent[0], consistent


def test_changed_entry_is_refused(verifier: str, exported: Exported) -> None:
    bundle = exported.tiles / "tile/entries/000"
    bundle.write_bytes(bundle.read_bytes().replace(b'"decision-100"', b'"decision-999"'))

    ok, _ = ask(verifier, "verify-inclusion", "--tiles", exported.tiles, "--vkey-file", exported.key, "--index", "101")

    assert not ok


def test_forged_checkpoint_is_refused(verifier: str, exported: Exported) -> None:
    note = exported.tiles / "checkpoint"
    note.write_text(note.read_text().replace("\n603\n", "\n602\n"))

    ok, _ = ask(verifier, "verify-checkpoint", "--tiles", exported.tiles, "--vkey-file", exported.key)

    assert not ok

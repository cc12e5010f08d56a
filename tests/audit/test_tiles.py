"""The exported tiles are those of C2SP tlog-tiles, and prove themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.checkpoint import BadNote, Signer, VerifierKey
from gateway.audit.log import AuditLog
from gateway.audit.merkle import leaf_hash, tree_root
from gateway.audit.report import Fault, Report, Unverifiable
from gateway.audit.tiles import export_tiles, pack_bundle, tile_path, tile_width, unpack_bundle
from gateway.audit.verify_tiles import verify_tiles
from tests.audit.records import DAY, Clock, records, tampering, write_log


def exported(tmp_path: Path, batches: list[int]) -> Path:
    write_log(tmp_path / "data", batches)
    export_tiles(tmp_path / "data" / "audit", tmp_path / "tiles")
    return tmp_path / "tiles"


def found(report: Report) -> list[tuple[Fault, int, int]]:
    return [(finding.fault, finding.first_seq, finding.last_seq) for finding in report.findings]


def test_tile_paths_are_those_of_the_specification() -> None:
    assert tile_path(0, 1_234_067) == "tile/0/x001/x234/067"
    assert tile_path(1, 5, 17) == "tile/1/005.p/17"
    assert tile_path("entries", 0, 256) == "tile/entries/000"


def test_tree_of_70000_has_the_tiles_of_the_specification() -> None:
    assert [tile_width(0, index, 70_000) for index in (272, 273, 274)] == [256, 112, 0]
    assert [tile_width(1, index, 70_000) for index in (0, 1, 2)] == [256, 17, 0]
    assert [tile_width(2, index, 70_000) for index in (0, 1)] == [1, 0]


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_bundles_survive_the_round_trip(entries: list[bytes]) -> None:
    assert unpack_bundle(pack_bundle(entries)) == entries


@given(st.binary(max_size=100))
def test_garbage_bundles_are_refused_or_read_whole(blob: bytes) -> None:
    try:
        entries = unpack_bundle(blob)
    except BadNote:
        return
    assert pack_bundle(entries) == blob


@pytest.mark.parametrize("blob", [b"\x00", b"\x00\x05abcd"])
def test_bundle_that_is_cut_short_is_refused(blob: bytes) -> None:
    with pytest.raises(BadNote, match="cut short"):
        unpack_bundle(blob)


def test_export_holds_every_file_of_the_layout(tmp_path: Path) -> None:
    tiles = exported(tmp_path, [200, 200, 200])

    files = sorted(str(path.relative_to(tiles)) for path in tiles.rglob("*") if path.is_file())
    assert files == [
        "checkpoint",
        "tile/0/000",
        "tile/0/001",
        "tile/0/002.p/91",
        "tile/1/000.p/2",
        "tile/entries/000",
        "tile/entries/001",
        "tile/entries/002.p/91",
        "verifier.key",
    ]
    bundle = unpack_bundle((tiles / "tile/entries/001").read_bytes())
    leaves = (tiles / "tile/0/001").read_bytes()
    assert b"".join(leaf_hash(entry) for entry in bundle) == leaves
    hashes = [leaves[at : at + 32] for at in range(0, len(leaves), 32)]
    assert (tiles / "tile/1/000.p/2").read_bytes()[32:] == tree_root(hashes)


def test_export_proves_itself(tmp_path: Path) -> None:
    report = verify_tiles(exported(tmp_path, [200, 200, 200]))

    assert report.ok
    assert (report.first, report.size, report.signed_size) == (0, 603, 603)


def test_export_is_brought_up_to_date(tmp_path: Path) -> None:
    tiles = exported(tmp_path, [200])
    first = (tiles / "checkpoint").read_bytes()
    write_log(tmp_path / "data", [100])

    done = export_tiles(tmp_path / "data" / "audit", tiles)

    assert (done.checkpoint.size, done.files) == (302, 5)
    assert verify_tiles(tiles, kept=first).ok


def test_export_of_whole_tiles_has_no_partial_one_at_the_bottom(tmp_path: Path) -> None:
    tiles = exported(tmp_path, [255])

    again = export_tiles(tmp_path / "data" / "audit", tiles)

    assert again.files == 0
    assert [path.name for path in (tiles / "tile/0").iterdir()] == ["000"]
    assert verify_tiles(tiles).ok


def test_export_of_a_running_log_ends_at_its_last_checkpoint(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, clock=Clock())
    log.append(records(5), durable=True)
    log.append(records(2, 5))

    done = export_tiles(tmp_path / "audit", tmp_path / "tiles")

    assert done.checkpoint.size == 6
    assert verify_tiles(tmp_path / "tiles").size == 6
    log.close()


def test_export_after_retention_begins_at_the_oldest_entry(tmp_path: Path) -> None:
    clock = Clock()
    write_log(tmp_path, [256, 256], clock=clock)
    clock.now += 401 * DAY
    write_log(tmp_path, [300], clock=clock)

    done = export_tiles(tmp_path / "audit", tmp_path / "tiles")

    report = verify_tiles(tmp_path / "tiles")
    assert done.first == report.first == 512
    assert report.findings == []
    assert not (tmp_path / "tiles" / "tile/entries/001").exists()


def test_directory_without_a_log_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(BadNote, match="no audit log here"):
        export_tiles(tmp_path, tmp_path / "tiles")


def test_export_of_another_log_is_not_overwritten(tmp_path: Path) -> None:
    tiles = exported(tmp_path / "a", [5])
    write_log(tmp_path / "b", [5])

    with pytest.raises(BadNote, match="export of another log"):
        export_tiles(tmp_path / "b" / "audit", tiles)


def test_log_that_shrank_is_not_exported(tmp_path: Path) -> None:
    tiles = exported(tmp_path, [5, 5])
    with tampering(tmp_path / "data") as db:
        db.execute("DELETE FROM entry WHERE seq > 5")
        db.execute("DELETE FROM checkpoint WHERE size > 6")

    with pytest.raises(BadNote, match="now has only 6"):
        export_tiles(tmp_path / "data" / "audit", tiles)


def test_log_that_was_changed_is_not_published(tmp_path: Path) -> None:
    write_log(tmp_path, [5])
    with tampering(tmp_path) as db:
        db.execute("UPDATE entry SET body = body || ' ' WHERE seq = 2")

    with pytest.raises(BadNote, match="interlock audit verify"):
        export_tiles(tmp_path / "audit", tmp_path / "tiles")

    assert not (tmp_path / "tiles" / "checkpoint").exists()


def replace_in(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new, 1))


def test_changed_entry_is_found_in_the_export(tmp_path: Path) -> None:
    tiles = exported(tmp_path, [200, 200])
    replace_in(tiles / "tile/entries/001.p/146", b'"decision-300"', b'"decision-301"')

    assert found(verify_tiles(tiles)) == [(Fault.CHANGED, 302, 302)]


def test_entry_and_hash_changed_together_are_found_in_the_export(tmp_path: Path) -> None:
    tiles = exported(tmp_path, [200, 200])
    bundle = tiles / "tile/entries/000"
    replace_in(bundle, b'"decision-100"', b'"decision-101"')
    hashes = b"".join(leaf_hash(entry) for entry in unpack_bundle(bundle.read_bytes()))
    (tiles / "tile/0/000").write_bytes(hashes)

    assert found(verify_tiles(tiles)) == [(Fault.CHANGED, 0, 255), (Fault.CHANGED, 0, 401)]


def test_swapped_entries_are_found_in_the_export(tmp_path: Path) -> None:
    tiles = exported(tmp_path, [20])
    bundle = tiles / "tile/entries/000.p/21"
    entries = unpack_bundle(bundle.read_bytes())
    entries[3], entries[4] = entries[4], entries[3]
    bundle.write_bytes(pack_bundle(entries))

    faults = {fault for fault, _, _ in found(verify_tiles(tiles))}
    assert faults == {Fault.CHANGED, Fault.REORDERED}


@pytest.mark.parametrize(
    ("name", "blob", "fault"),
    [
        ("tile/entries/001.p/146", None, Fault.REMOVED),
        ("tile/entries/001.p/146", b"\x00\x05abc", Fault.REMOVED),
        ("tile/entries/001.p/146", b"\x00\x01{", Fault.REMOVED),
        ("tile/0/001.p/146", None, Fault.UNREADABLE),
        ("tile/0/000", b"short", Fault.UNREADABLE),
        ("tile/1/000.p/1", None, Fault.UNREADABLE),
        ("tile/1/000.p/1", bytes(32), Fault.CHANGED),
    ],
)
def test_missing_or_damaged_tile_is_found(tmp_path: Path, name: str, blob: bytes | None, fault: Fault) -> None:
    tiles = exported(tmp_path, [200, 200])
    (tiles / name).unlink() if blob is None else (tiles / name).write_bytes(blob)

    assert fault in {finding.fault for finding in verify_tiles(tiles).findings}


def test_missing_oldest_bundle_without_a_retention_marker_is_found(tmp_path: Path) -> None:
    tiles = exported(tmp_path, [200, 200])
    (tiles / "tile/entries/000").unlink()

    assert (Fault.REMOVED, 0, 255) in found(verify_tiles(tiles))


def test_export_without_any_bundle_is_found(tmp_path: Path) -> None:
    tiles = exported(tmp_path, [20])
    (tiles / "tile/entries/000.p/21").unlink()

    assert not verify_tiles(tiles).ok


def test_export_with_a_forged_checkpoint_cannot_be_verified(tmp_path: Path) -> None:
    tiles = exported(tmp_path, [20])
    replace_in(tiles / "checkpoint", b"\n21\n", b"\n20\n")

    with pytest.raises(Unverifiable, match="does not hold"):
        verify_tiles(tiles)


def test_export_is_checked_with_a_key_kept_elsewhere(tmp_path: Path) -> None:
    tiles = exported(tmp_path, [20])
    key = VerifierKey.parse((tmp_path / "data" / "audit" / "verifier.key").read_text())
    (tiles / "verifier.key").unlink()

    assert verify_tiles(tiles, key=key).remarks == []


def test_empty_export_of_an_empty_log_holds(tmp_path: Path) -> None:
    exported(tmp_path, [1])
    signer = Signer.parse((tmp_path / "data" / "audit" / "signing.key").read_text())
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "checkpoint").write_text(signer.sign(0, tree_root([])))

    report = verify_tiles(empty, key=signer.verifier)

    assert (report.ok, report.size) == (True, 0)


@pytest.mark.slow
def test_third_tile_level_is_exported_and_proved(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, clock=Clock())
    for start in range(0, 66_000, 1_000):
        log.append(records(1_000, start))
    log.close()

    export_tiles(tmp_path / "audit", tmp_path / "tiles")

    assert (tmp_path / "tiles" / "tile/2/000.p/1").stat().st_size == 32
    assert verify_tiles(tmp_path / "tiles").ok

"""An archive from outside holds plain files with plain names, or nothing of it is used."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
from collections.abc import Callable

import pytest

from adapters.pdp import opa_bundle_archive
from adapters.pdp.bundle import PolicyRefused
from adapters.pdp.opa_bundle_archive import MAX_COMPRESSED, MAX_FILES, packed, unpacked

FILES = {"a.rego": b"package a\n", "b/data.json": b"{}", ".manifest": b"{}"}


def tar_of(*entries: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, link: str = "", form: int = 2) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(content), kind, link
            tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def test_files_come_back_as_they_were() -> None:
    assert unpacked(packed(FILES)) == FILES


def test_order_makes_no_difference_to_the_bytes() -> None:
    assert packed(FILES) == packed(dict(reversed(FILES.items())))


def test_long_names_and_other_dialects_of_tar_are_read() -> None:
    name = f"{'x' * 90}/{'y' * 90}.rego"

    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        assert unpacked(gzip.compress(tar_of((f"./{name}", b"x"), form=form))) == {name: b"x"}


def test_directories_say_nothing() -> None:
    raw = tar_of(("a", b""), kind=tarfile.DIRTYPE)[:512] + tar_of(("a/b.rego", b"x"))

    assert unpacked(gzip.compress(raw)) == {"a/b.rego": b"x"}


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "//x", "a//x", "a/./b", "/", "", "a\\..\\x", "a\nb", "a\0b", "x" * 600, "a/", "\u202e.rego"],
)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    if "\0" in name:
        with pytest.raises(PolicyRefused):
            packed({name: b""})
        return
    with pytest.raises(PolicyRefused):
        unpacked(gzip.compress(tar_of((name, b"x"), form=tarfile.PAX_FORMAT)))


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, b"Z"],
)
def test_what_is_no_plain_file_is_refused(kind: bytes) -> None:
    with pytest.raises(PolicyRefused, match=r"no plain file|no tar archive"):
        unpacked(gzip.compress(tar_of(("a.rego", b""), kind=kind, link="/etc/passwd")))


@pytest.mark.parametrize("names", [("a", "a"), ("/a", "a"), ("./a", "/a")])
def test_a_name_that_comes_twice_is_refused(names: tuple[str, str]) -> None:
    with pytest.raises(PolicyRefused, match="twice"):
        unpacked(gzip.compress(tar_of(*((name, b"x") for name in names))))


def damaged(raw: bytes) -> bytes:
    """The second header is none any more: a reader that is not careful sees one file."""
    return raw[:1024] + b"\x01" + raw[1025:]


def endless(raw: bytes) -> bytes:
    """A size below zero, which leads back to the same header."""
    header = bytearray(raw[:512])
    header[124:136] = b"\xff" * 10 + b"\xfc\x00"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + raw[512:]


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda raw: gzip.compress(damaged(raw)), "damaged part"),
        (lambda raw: gzip.compress(endless(raw)), "."),
        (lambda raw: gzip.compress(raw[:700]), "."),
        (lambda raw: gzip.compress(raw + b"\0" * 512 + b"x" * 512), "damaged part"),
        (lambda raw: gzip.compress(raw)[:-20], "cut off"),
        (lambda raw: gzip.compress(raw)[:-1], "cut off"),
        (lambda raw: gzip.compress(raw) + gzip.compress(raw), "more after its end"),
        (lambda raw: gzip.compress(raw)[:60] + b"\0" + gzip.compress(raw)[61:], "."),
        (lambda raw: raw, "is not gzip"),
        (lambda raw: b"", "cut off"),
        (lambda raw: gzip.compress(b""), "no tar archive"),
        (lambda raw: gzip.compress(b"hello"), "no tar archive"),
    ],
)
def test_what_is_not_whole_is_refused(spoil: Callable[[bytes], bytes], what: str) -> None:
    raw = tar_of(("a.rego", b"package a"), ("b.rego", b"package b"))

    with pytest.raises(PolicyRefused, match=what):
        unpacked(spoil(raw))


def with_header(kind: bytes, content: bytes) -> bytes:
    """A file behind a header that says something of it."""
    header = tarfile.TarInfo("header")
    header.size, header.type = len(content), kind
    return header.tobuf() + content + b"\0" * (-len(content) % 512) + tar_of(("a.rego", b"x"))


def test_extended_header_cannot_stop_the_process() -> None:
    archive = gzip.compress(with_header(tarfile.XHDTYPE, b"1" * 80_000))

    began = time.process_time()
    with pytest.raises(PolicyRefused, match="no tar archive"):
        unpacked(archive)
    took = time.process_time() - began

    assert len(archive) < 400
    assert took < 1


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (tarfile.XHDTYPE, b"8 path=b\n"),
        (tarfile.XHDTYPE, b"9 pathb\n"),
        (tarfile.XHDTYPE, b"10 path=b\n10 path=c\n"),
        (tarfile.XHDTYPE, b"99 path=b\n"),
        (tarfile.XHDTYPE, b"0 path=b\n"),
        (tarfile.XHDTYPE, b"11 size=-1\n"),
        (tarfile.XHDTYPE, b"11 size=99\n99"),
        (tarfile.XHDTYPE, b"20 size=99999999999\n"),
        (tarfile.XHDTYPE, b"11 path=\xff\xff\n"),
        (tarfile.XHDTYPE, b"25 GNU.sparse.realsize=1\n"),
        (tarfile.XGLTYPE, b"10 path=b\n"),
        (tarfile.GNUTYPE_LONGNAME, b"\xff\0"),
    ],
)
def test_headers_that_readers_read_differently_are_refused(kind: bytes, content: bytes) -> None:
    with pytest.raises(PolicyRefused, match="build it again"):
        unpacked(gzip.compress(with_header(kind, content)))


def test_only_one_header_names_an_entry() -> None:
    twice = with_header(tarfile.XHDTYPE, b"10 path=b\n")[:1024] + with_header(tarfile.GNUTYPE_LONGNAME, b"c\0")
    without_entry = with_header(tarfile.XHDTYPE, b"10 path=b\n")[:1024]

    for raw in (twice, without_entry, without_entry + b"\0" * 1024):
        with pytest.raises(PolicyRefused, match="damaged part"):
            unpacked(gzip.compress(raw))


def test_what_a_header_says_beside_name_and_size_is_passed_over() -> None:
    note = b"15 mtime=1.25\xff\n"

    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE):
        assert unpacked(gzip.compress(with_header(kind, note))) == {"a.rego": b"x"}


def test_directory_of_a_size_and_a_name_of_two_readings_are_refused() -> None:
    directory = tarfile.TarInfo("d")
    directory.type, directory.size = tarfile.DIRTYPE, 512
    strange = bytearray(tar_of(("a.rego", b"x"), form=tarfile.GNU_FORMAT))
    strange[345] = ord("b")
    strange[148:156] = b" " * 8
    strange[148:156] = b"%06o\0 " % sum(strange[:512])

    for raw in (directory.tobuf() + tar_of(("a.rego", b"x")), bytes(strange)):
        with pytest.raises(PolicyRefused, match="no tar archive"):
            unpacked(gzip.compress(raw))


def test_directory_of_the_oldest_kind_says_nothing() -> None:
    raw = tar_of(("d/", b""), kind=tarfile.AREGTYPE)[:512] + tar_of(("a.rego", b"x"), kind=tarfile.AREGTYPE)

    assert unpacked(gzip.compress(raw)) == {"a.rego": b"x"}


def test_sizes_have_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PolicyRefused, match=f"larger than {MAX_COMPRESSED} bytes"):
        unpacked(b"\0" * (MAX_COMPRESSED + 1))
    with pytest.raises(PolicyRefused, match=f"more than {MAX_FILES} entries"):
        unpacked(gzip.compress(tar_of(*((f"{number}", b"") for number in range(MAX_FILES + 1)))))

    monkeypatch.setattr(opa_bundle_archive, "MAX_EXPANDED", 1 << 20)
    with pytest.raises(PolicyRefused, match="when expanded"):
        unpacked(gzip.compress(b"\0" * (2 << 20)))

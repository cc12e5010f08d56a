"""`interlock policy bundle`: policies in OPA's bundle format, made, signed and looked at without OPA."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from adapters.pdp.bundle import Bundle, PolicyRefused, load_bundle
from adapters.pdp.bundle_signature import KEY_ID, SIGNATURES, Signed, inspect, sign, verify
from adapters.pdp.checks import examine
from adapters.pdp.opa_bundle import composed, read_bundle, write_bundle
from adapters.pdp.opa_bundle_archive import MAX_COMPRESSED, packed, unpacked
from adapters.pdp.opa_bundle_keys import ALGORITHMS, private_key, public_key
from adapters.pdp.policytests import run_tests
from gateway.cli.main import NOT_AS_IT_SHOULD_BE, OK, CommandFailed, Commands
from gateway.cli.policy_files import add_json, add_path, plain, print_json
from gateway.cli.remote import printable
from gateway.config.fields import policy_library, starter_policies

OUTPUT: Final = Path("bundle.tar.gz")
_KEY_HELP: Final = "a PEM key, or a shared secret of 32 bytes or more"


def add_verbs(above: Commands) -> None:
    """Mount `bundle` with its own verbs."""
    parser = above.add_parser("bundle", help="build, sign, verify or show bundles in OPA's format")
    verbs = parser.add_subparsers(title="what to do", metavar="WHAT", required=True)
    _add_build(verbs)
    signing = verbs.add_parser("sign", help="sign a bundle, in the place of a signature that it has")
    signing.add_argument("file", type=Path, metavar="FILE", help="a bundle (.tar.gz)")
    signing.add_argument("--output", "-o", type=Path, metavar="FILE", help="where to write it (default: in its place)")
    signing.add_argument("--key", type=Path, required=True, metavar="FILE", help=f"{_KEY_HELP}; the private one")
    _add_signature(signing)
    signing.set_defaults(func=sign_bundle)
    verifying = verbs.add_parser("verify", help="say whether the signature of a bundle holds")
    verifying.add_argument("file", type=Path, metavar="FILE", help="a bundle (.tar.gz)")
    verifying.add_argument("--key", type=Path, required=True, metavar="FILE", help=f"{_KEY_HELP}; the public one")
    verifying.add_argument("--scope", default="", metavar="TEXT", help="the scope that the signature must be for")
    verifying.set_defaults(func=verify_bundle)
    looking = verbs.add_parser("inspect", help="show what is in a bundle, without verifying it")
    looking.add_argument("file", type=Path, metavar="FILE", help="a bundle (.tar.gz)")
    looking.set_defaults(func=inspect_bundle)
    for verb in (signing, verifying, looking):
        add_json(verb)


def _add_build(verbs: Commands) -> None:
    verb = verbs.add_parser("build", help="check and test policies, and write them as a bundle")
    add_path(verb)
    verb.add_argument("--output", "-o", type=Path, default=OUTPUT, metavar="FILE", help=f"default: {OUTPUT}")
    verb.add_argument("--revision", default="", metavar="TEXT", help="for the manifest (default: hash of the content)")
    verb.add_argument(
        "--root", action="append", default=[], metavar="PATH", help="a root (default: as few as it needs)"
    )
    verb.add_argument("--no-library", action="store_true", help="leave the library to the gateway that loads it")
    verb.add_argument("--tests", action="store_true", help="with tests and cases: whoever loads it runs them again")
    verb.add_argument("--key", type=Path, metavar="FILE", help=f"sign it too: {_KEY_HELP}; the private one")
    _add_signature(verb)
    add_json(verb)
    verb.set_defaults(func=build)


def _add_signature(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--alg", default="", choices=ALGORITHMS, metavar="NAME", help="default: the usual for the key")
    verb.add_argument("--key-id", default="", metavar="NAME", help=f"name of the key (default: {KEY_ID}, as OPA's)")
    verb.add_argument("--scope", default="", metavar="TEXT", help="what the signature is for (default: everything)")


def build(arguments: argparse.Namespace) -> int:
    """Exit code 0 if the bundle was written, 1 if the policy is not good."""
    try:
        bundle = _good(arguments.path or [starter_policies()], with_library=not arguments.no_library)
        written = write_bundle(bundle, revision=arguments.revision, roots=arguments.root, with_tests=arguments.tests)
        files = unpacked(packed(written))  # what is signed is what a reader will find
        signed = _signed(files, arguments) if arguments.key is not None else None
        archive = packed(files)
        opened = read_bundle(unpacked(archive))
    except PolicyRefused as exc:
        return _say_refused(exc, as_json=arguments.json)
    _write(arguments.output, archive)
    revision, roots = opened.manifest.revision, list(opened.manifest.roots)
    report = {"ok": True, "file": str(arguments.output), "revision": revision, "roots": roots, "signed": bool(signed)}
    if arguments.json:
        print_json(report)
    else:
        by = f", signed with {signed.algorithm}" if signed else ", not signed"
        print(f"{arguments.output}: revision {revision}, {len(files)} files, roots {' '.join(roots)}{by}")
    return OK


def sign_bundle(arguments: argparse.Namespace) -> int:
    """Exit code 0 if the signed bundle was written, 1 if it is none that could be loaded."""
    try:
        files = unpacked(_content(arguments.file))
        files.pop(SIGNATURES, None)
        read_bundle(files)
        signed = _signed(files, arguments)
        archive = packed(files)
    except PolicyRefused as exc:
        return _say_refused(exc, as_json=arguments.json)
    target = arguments.output or arguments.file
    _write(target, archive)
    return _say_signed(signed, str(target), "signed", as_json=arguments.json)


def verify_bundle(arguments: argparse.Namespace) -> int:
    """Exit code 0 if the signature holds for all that is in the bundle, else 1."""
    try:
        files = unpacked(_content(arguments.file))
        signed = verify(files, public_key(_text(arguments.key)), scope=arguments.scope)
        read_bundle(files)
    except PolicyRefused as exc:
        return _say_refused(exc, as_json=arguments.json)
    return _say_signed(signed, str(arguments.file), "the signature holds", as_json=arguments.json)


def inspect_bundle(arguments: argparse.Namespace) -> int:
    """Exit code 0 if it is a bundle, else 1."""
    try:
        files = unpacked(_content(arguments.file))
        opened, signed = read_bundle(files), inspect(files)
    except PolicyRefused as exc:
        return _say_refused(exc, as_json=arguments.json)
    manifest = opened.manifest
    report: dict[str, object] = {
        "ok": True,
        "revision": manifest.revision,
        "roots": list(manifest.roots),
        "metadata": manifest.metadata,
        "library": opened.has_library,
        "policy": opened.bundle.revision,
        "files": {name: len(content) for name, content in sorted(files.items())},
        "signature": _described(signed) if signed is not None else None,
    }
    print_json(report) if arguments.json else print(_page(report))
    return OK


def _good(paths: list[Path], *, with_library: bool) -> Bundle:
    """The policy of these directories, checked and tested under the library. Raises `PolicyRefused`."""
    library = policy_library()
    chosen = [path for path in paths if path.resolve() != library.resolve()]
    whole = load_bundle([library, *chosen])
    faults = list(examine(whole).faults) or run_tests(whole).faults
    if faults:
        raise PolicyRefused(faults)
    if with_library:
        return whole
    bundle = load_bundle(chosen)
    composed(load_bundle([library]), bundle)
    return bundle


def _signed(files: dict[str, bytes], arguments: argparse.Namespace) -> Signed:
    """Puts the signature among the files; what it says."""
    key = private_key(_text(arguments.key))
    files[SIGNATURES] = sign(files, key, arguments.alg, key_id=arguments.key_id, scope=arguments.scope)
    return verify(files, key, scope=arguments.scope)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_COMPRESSED + 1)
    except OSError as exc:
        raise CommandFailed(f"{path}: cannot be read ({exc.strerror})") from exc


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as exc:
        raise CommandFailed(f"{path}: cannot be read ({exc.strerror})") from exc
    except UnicodeDecodeError as exc:
        raise CommandFailed(f"{path}: is no key (PEM, or a secret that is UTF-8 text)") from exc


def _write(path: Path, content: bytes) -> None:
    """In one step: a server that reads the file meanwhile has the one before or this one."""
    with tempfile.NamedTemporaryFile(dir=path.absolute().parent, prefix=f".{path.name}.", delete=False) as file:
        shadow = Path(file.name)
        try:
            file.write(content)
            file.flush()
            shadow.chmod(0o644)  # a bundle is to be served; it holds no secret
            shadow.replace(path)
        except OSError:
            shadow.unlink(missing_ok=True)
            raise


def _say_refused(refused: PolicyRefused, *, as_json: bool) -> int:
    if as_json:
        print_json({"ok": False, "faults": plain(refused.faults)})
    else:
        print(refused)
    return NOT_AS_IT_SHOULD_BE


def _say_signed(signed: Signed, file: str, what: str, *, as_json: bool) -> int:
    if as_json:
        print_json({"ok": True, "file": file, **_described(signed)})
    else:
        key = f"key {signed.key_id or 'without a name'}"
        print(printable(f"{file}: {what} ({signed.algorithm}, {key}, {len(signed.files)} files)"))
    return OK


def _described(signed: Signed) -> Mapping[str, object]:
    return {"algorithm": signed.algorithm, "key_id": signed.key_id, "scope": signed.scope, "signs": len(signed.files)}


def _page(report: Mapping[str, object]) -> str:
    files, roots, signature = report["files"], report["roots"], report["signature"]
    lines = [
        f"revision   {report['revision'] or '(none)'}",
        f"policy     {report['policy']}",
        f"roots      {' '.join(root or '(everything)' for root in roots) if isinstance(roots, list) else ''}",
        f"library    {'in it' if report['library'] else 'left to the gateway'}",
    ]
    if isinstance(signature, dict):
        named = f"key {signature['key_id'] or 'without a name'}, {signature['signs']} files, not verified here"
        lines.append(f"signature  {signature['algorithm']}, {named}")
    else:
        lines.append("signature  (none)")
    if isinstance(files, dict):
        lines += [f"{size:>10} {name}" for name, size in files.items()]
    return "\n".join(printable(line) for line in lines)  # nobody answers for what it says of itself

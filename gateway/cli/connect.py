"""`interlock connect`: puts the gateway into a client's settings, or takes a client's servers over as upstreams."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from gateway.cli import files, jsonfile
from gateway.cli.clients import CLIENTS, Client, Object, Place, settings_with
from gateway.cli.importing import Imported, servers_in, toml_of, translate
from gateway.cli.main import OK, CommandFailed, Commands
from gateway.cli.options import add_config, config_path
from gateway.config import Settings, load, loads

DEFAULT_NAME = "interlock"


def add_parser(commands: Commands) -> None:
    """Mount the command."""
    parser = commands.add_parser(
        "connect", help="put the gateway into a client's settings, or import a client's servers"
    )
    targets = parser.add_subparsers(title="clients", metavar="CLIENT", required=True)
    for client in CLIENTS.values():
        _add_client(targets.add_parser(client.name, help=_purpose(client)), client)
    importer = targets.add_parser("import", help="take the servers of an mcpServers file over as [upstreams.*]")
    add_config(importer)
    importer.add_argument("file", type=Path, metavar="FILE", help="a client's settings file")
    importer.add_argument("--dry-run", action="store_true", help="show the change and write nothing")
    importer.set_defaults(func=import_servers)


def _add_client(parser: argparse.ArgumentParser, client: Client) -> None:
    add_config(parser)
    parser.add_argument("--write", action="store_true", help="write it into the client's settings, with a backup")
    parser.add_argument("--dry-run", action="store_true", help="show what --write would change and write nothing")
    parser.add_argument("--file", type=Path, metavar="FILE", help="another settings file than the client's usual one")
    parser.add_argument("--url", help="address of the gateway (default: from the configuration)")
    parser.add_argument("--upstream", metavar="NAME", help="only this upstream, names untouched")
    parser.add_argument("--name", default=DEFAULT_NAME, help=f"name of the entry (default: {DEFAULT_NAME})")
    parser.set_defaults(func=connect, client=client)


def _purpose(client: Client) -> str:
    return (
        "any client with an mcpServers file" if client.file is None else f"print or write the entry for {client.name}"
    )


def connect(arguments: argparse.Namespace) -> int:
    """Print the entry, show the change it would be, or make it."""
    client: Client = arguments.client
    url = _address(arguments)
    if not (arguments.write or arguments.dry_run):
        print(json.dumps(settings_with(client, arguments.name, url, {}), indent=2))
        return OK
    path = _settings_file(client, arguments.file)
    before = files.content(path)
    after = _changed(client, arguments.name, url, path, before)
    if after == before:
        print(f"{path}: {arguments.name!r} is there already; nothing to do")
    elif arguments.dry_run:
        print(files.diff(path, before, after), end="")
    else:
        _write(path, before, after)
        print(f"next: {client.next_step}")
    return OK


def import_servers(arguments: argparse.Namespace) -> int:
    """Append the servers of a client's settings to the configuration, without their secrets."""
    source: Path = arguments.file
    target = config_path(arguments)
    before = files.content(target)
    text = (before or b"").decode()
    present = loads(text, target.parent)
    data = files.content(source)
    if data is None:
        raise CommandFailed(f"{source}: no such file")
    settings = jsonfile.read_leniently(data.decode("utf-8-sig"), str(source))
    imported = translate(servers_in(settings, str(source)), present)
    _append(target, before, text, imported, dry_run=arguments.dry_run)
    _report(imported, dry_run=arguments.dry_run)
    return OK


def _append(target: Path, before: bytes | None, text: str, imported: Imported, *, dry_run: bool) -> None:
    if not imported.upstreams:
        return
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    after = text + gap + toml_of(imported.upstreams)
    loads(after, target.parent)  # never write a file that the gateway would refuse
    if dry_run:
        print(files.diff(target, before, after.encode()), end="")
    else:
        _write(target, before, after.encode())


def _report(imported: Imported, *, dry_run: bool) -> None:
    for name in imported.upstreams:
        print(f"{'would import' if dry_run else 'imported'} {name}")
    for name, why in imported.skipped:
        print(f"left out {name}: {why}")
    if imported.variables:
        print("set these variables before starting the gateway (their values were not copied):")
        for variable, where in imported.variables.items():
            print(f"  {variable}  ({where})")


def _address(arguments: argparse.Namespace) -> str:
    base = arguments.url or _settings(config_path(arguments)).listen.url
    path = f"/servers/{arguments.upstream}/mcp" if arguments.upstream else "/mcp"
    return base if base.endswith("/mcp") else base.rstrip("/") + path


def _settings(path: Path) -> Settings:
    return load(path) if path.exists() else Settings()


def _settings_file(client: Client, chosen: Path | None) -> Path:
    if chosen is not None:
        return chosen.expanduser().absolute()
    if client.file is None:
        raise CommandFailed("which file? give it with --file")
    return client.file(Place.of_this_process())


def _changed(client: Client, name: str, url: str, path: Path, before: bytes | None) -> bytes:
    text = (before or b"").decode("utf-8-sig")
    settings: Object = jsonfile.read_exactly(text, str(path))
    servers = settings.get(client.servers_key, {})
    if not isinstance(servers, dict):
        raise CommandFailed(f"{path}: {client.servers_key} is not an object; mend it first")
    wanted = settings_with(client, name, url, settings)
    if wanted == settings and before is not None:
        return before
    return jsonfile.write_like(wanted, text).encode()


def _write(path: Path, before: bytes | None, after: bytes) -> None:
    kept = f" (before: {files.backup(path, before, time.time())})" if before is not None else ""
    files.replace(path, before, after)
    print(f"wrote {path}{kept}")

"""`interlock approvals webhook-secret`: what a receiver of webhooks needs in order to trust them."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, TypeAlias

import anyio

from adapters.stores.sql import open_store
from gateway.approvals.notices import WEBHOOKS, secret_text
from gateway.cli.main import OK
from gateway.cli.options import add_config, config_path
from gateway.config import Settings, load

if TYPE_CHECKING:
    Verbs: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

_PURPOSE = "the secret that webhooks are signed with, for their receiver"


def add_webhook_secret(verbs: Verbs) -> None:
    """Mount the verb. It reads the state store itself, as `interlock keys` does: no running gateway is needed."""
    kept = "It is made once, kept in the state store, and the same for all replicas."
    words = f"{_PURPOSE[0].upper()}{_PURPOSE[1:]}. {kept}"
    parser = verbs.add_parser("webhook-secret", help=_PURPOSE, description=words)
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(func=_run)


def _run(args: argparse.Namespace) -> int:
    text = anyio.run(_secret, load(config_path(args)))
    print(json.dumps({"secret": text}, indent=2) if args.json else text)
    return OK


async def _secret(settings: Settings) -> str:
    store = await open_store(settings.state.address(), data_dir=settings.state.dir, clock_s=time.time)
    try:
        return secret_text(await store.secret(WEBHOOKS))
    finally:
        await store.aclose()

"""Options that several commands share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

CONFIG_NAME: Final = "interlock.toml"
CONFIG_VARIABLE: Final = "INTERLOCK_CONFIG"


def add_config(parser: argparse.ArgumentParser) -> None:
    """`--config FILE`."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"the configuration (default: ${CONFIG_VARIABLE}, else ./{CONFIG_NAME})",
    )


def config_path(arguments: argparse.Namespace) -> Path:
    """The configuration file that is meant, absolute."""
    chosen: Path | None = arguments.config
    return (chosen or Path(os.environ.get(CONFIG_VARIABLE, "") or CONFIG_NAME)).expanduser().absolute()

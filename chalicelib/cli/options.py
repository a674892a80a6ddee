"""Argument types and options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

DEFAULT_STATE_DIR = ".depot"


def port(text: str) -> int:
    """A TCP port, 0 to 65535; 0 is any free one."""
    if not text.isdigit() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535, 0 for any free one")
    return int(text)


def state_dir(command: argparse.ArgumentParser, default: str | None = DEFAULT_STATE_DIR) -> None:
    command.add_argument(
        "--state-dir",
        type=Path,
        default=Path(default) if default else None,
        metavar="DIR",
        help="where secrets, tables and logs are kept" + (f" (default {default})" if default else ""),
    )

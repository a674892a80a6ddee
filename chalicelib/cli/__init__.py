"""`depot …`: the command line. Each command is a module with `register(commands)`; this one only parses and dispatches.

May import everything lazily, inside functions (design, section 2); nothing imports it. Never part of a Lambda package.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

# Exit codes: 0 done, 1 a check or a transfer failed, 2 bad usage or bad settings (as argparse has it), 3 a transfer was
# refused for who is asking, 130 interrupted.
BAD_SETTINGS, INTERRUPTED = 2, 130

MIN_PYTHON = (3, 11)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. A `DepotError` becomes one line on stderr."""
    if sys.version_info < MIN_PYTHON:
        print(f"depot: Python {MIN_PYTHON[0]}.{MIN_PYTHON[1]} or newer is needed", file=sys.stderr)
        return BAD_SETTINGS
    from chalicelib.errors import DepotError, SettingsError

    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except SettingsError as error:
        print(f"depot: {error.message}", file=sys.stderr)
        return BAD_SETTINGS
    except DepotError as error:
        print(f"depot: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The whole command line, for `main` and for the documentation."""
    from chalicelib.cli import (
        cleanup,
        hold,
        jobs,
        ledger,
        manage,
        openapi,
        people,
        report,
        serve,
        sweep,
        token,
        transfer,
        two_server,
        up,
        verify,
    )

    top = argparse.ArgumentParser(
        prog="depot",
        description="Depot moves files that hold PHI from a web tier, which never stores a byte, to the NAS, and tracks "
        "every operation.",
        epilog="'depot COMMAND --help' explains one command.",
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (
        up,
        serve,
        two_server,
        transfer,
        sweep,
        cleanup,
        hold,
        verify,
        report,
        jobs,
        ledger,
        manage,
        people,
        token,
        openapi,
    ):
        module.register(commands)
    return top

"""`depot ledger …`: signed checkpoints, the export, and its check."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chalicelib.errors import DepotError, SettingsError

if TYPE_CHECKING:
    from chalicelib.config import Settings

ABOUT = """The ledger of all operations, for who checks it. 'verify' needs nothing but its file and the public key; the others
need the settings of the services tier (against a running 'depot up', first: eval "$(depot env)")."""


def register(commands: Any) -> None:
    ledger = commands.add_parser("ledger", help="sign, export and check the ledger", description=ABOUT)
    verbs = ledger.add_subparsers(title="commands", metavar="COMMAND", required=True)

    checkpoint = verbs.add_parser(
        "checkpoint",
        help="sign a checkpoint now",
        description="Check all events since the last checkpoint, and sign the heads of all chains. The schedule does so every "
        "five minutes. Exit code 1 when the ledger is not whole; then nothing is signed.",
    )
    checkpoint.set_defaults(run=run_checkpoint)

    export = verbs.add_parser(
        "export",
        help="write all events and checkpoints to a file",
        description="Write JSON Lines: every event, and among them the signed checkpoints. Run again with the same FILE, it "
        "checks the file's end and adds what is new. The file names files and people: keep it as you keep PHI.",
    )
    export.add_argument("file", type=Path, metavar="FILE")
    export.set_defaults(run=run_export)

    verify = verbs.add_parser(
        "verify",
        help="check an exported file, offline",
        description="Check every event, chain and checkpoint of an exported file. Exit code 0: whole; 1: not, and the first bad "
        "event or checkpoint is named; 2: wrong use. What came after the last checkpoint is told: it is not protected.",
    )
    from nas_gateway.ledger import verify as verifier  # the CLI may, lazily; this one needs the standard library alone

    verifier.add_arguments(verify)
    verify.set_defaults(run=verifier.run)

    public_key = verbs.add_parser(
        "public-key",
        help="print the public key for 'verify'",
        description="Print the public key that signed the first checkpoint (base64): all later keys follow from it. Hand it to "
        "auditors on a way of its own, once.",
    )
    public_key.set_defaults(run=run_public_key)

    rotate = verbs.add_parser(
        "rotate-key",
        help="sign with a new key from now on",
        description="Make a new key, sign with the old one that it is the next, and put it in the old one's place. If it is "
        "interrupted, run it again. With LEDGER_SIGNING_KEY, name a file for the new key, and then change the setting.",
    )
    rotate.add_argument("--new-key-file", type=Path, metavar="FILE", help="where to keep the new key; made if missing")
    rotate.set_defaults(run=run_rotate)


def _settings() -> Settings:
    from chalicelib.config import Settings

    return Settings.from_env({**os.environ, "SERVER_ROLE": "services"})


def run_checkpoint(arguments: argparse.Namespace) -> int:
    from nas_gateway import wiring

    made = wiring.checkpointer(_settings()).run()
    if made is None:
        print("Another process signed one at the same moment: that one stands.")
        return 0
    print(f"Checkpoint {made.number} of {made.at} covers {sum(head.seq for head in made.heads)} events.")
    return 0


def run_export(arguments: argparse.Namespace) -> int:
    from nas_gateway import wiring
    from nas_gateway.ledger.export import export

    settings = _settings()
    wiring.bind_ledger(settings)
    done = export(arguments.file, wiring.checkpoint_store(settings) if settings.ledger_checkpoints else None)
    print(f"Added {done.events} events and {done.checkpoints} checkpoints.")
    return 0


def run_public_key(arguments: argparse.Namespace) -> int:
    from nas_gateway import wiring
    from nas_gateway.ledger.checkpoints import first_key

    settings = _settings()
    first = first_key(wiring.checkpoint_store(settings)) if settings.ledger_checkpoints else None
    print(first or wiring.signing_key(settings).public)
    return 0


def run_rotate(arguments: argparse.Namespace) -> int:
    from nas_gateway import wiring
    from nas_gateway.ledger import signing

    settings = _settings()
    old = Path(settings.ledger_signing_key_file) if settings.ledger_signing_key_file else None
    place = old.with_name(f"{old.name}.new") if old is not None else arguments.new_key_file
    if place is None or (old is not None and arguments.new_key_file is not None):
        raise SettingsError(
            "--new-key-file goes with LEDGER_SIGNING_KEY; with LEDGER_SIGNING_KEY_FILE the file itself gets the new key"
        )
    checkpointer = wiring.checkpointer(settings)
    made = checkpointer.rotate(signing.load(place, make=True))
    if made is None:
        raise DepotError("Another process signed a checkpoint at the same moment. Run the command again.")
    if old is not None:
        place.replace(old)
        print(f"From checkpoint {made.number} on, a new key signs. The old one is gone.")
    else:
        print(f"After checkpoint {made.number} the new key must sign: set LEDGER_SIGNING_KEY to it now.")
    return 0

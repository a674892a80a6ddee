"""Receipts of deletions: what went, when, by which rule, and what was seen to be gone; signed with the ledger's key.

Reading and checking one needs nothing of Depot's but this module and the public key. The format is docs/cleanup.md's.
Imported by this package and the CLI.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nas_gateway.cleanup.items import Item
from nas_gateway.cleanup.plans import canonical
from nas_gateway.files.deletion import Deleted
from nas_gateway.files.tables import TrackedFile
from nas_gateway.ledger.events import iso

if TYPE_CHECKING:
    from nas_gateway.ledger.signing import SigningKey

VERSION: Final = 1
# What is signed begins with this, so that no signature over anything else can pass for a receipt's.
CONTEXT: Final = b"depot cleanup receipt v1\n"


@dataclass(frozen=True, slots=True)
class Signed:
    """A receipt and its signature (base64); without a key in the settings there is none, and the answer says so."""

    text: str
    signature: str | None
    public_key: str | None


def make(
    item: Item,
    plan_id: str,
    who: str,
    done: Deleted,
    file: TrackedFile | None,
    key: Callable[[], SigningKey | None],
) -> Signed:
    """The receipt of one deletion. `verified` is what was looked for afterwards and not found."""
    receipt: dict[str, Any] = {
        "v": VERSION,
        "plan_id": plan_id,
        "file_id": item.id,
        "disk": item.disk,
        "size": item.size,
        "sha256": (file.sha256 if file is not None else None),
        "rule": item.rule.value,
        "who": who,
        "at": iso(done.event.at),
        "ledger": done.event.position,
        "event": done.event.hash,
        "tracking_id": done.tracking_id,
        "already_gone": done.already_gone,
        "verified": {
            "object": True,
            "versions": done.versions is not None,
            "parts": True,
            "versions_removed": done.versions or 0,
            "parts_removed": done.parts,
        },
    }
    text = canonical({name: value for name, value in receipt.items() if value is not None})
    signer = key()
    if signer is None:
        return Signed(text.decode(), None, None)
    return Signed(text.decode(), signer.sign(CONTEXT + text), signer.public)


def check(line: Mapping[str, Any], public_key: bytes) -> str | None:
    """Why a line of `depot cleanup receipts --json` is not a receipt signed with this key (32 bytes); None where it is."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    text, signature = line.get("receipt"), line.get("signature")
    if not isinstance(text, str):
        return "no receipt"
    if not isinstance(signature, str):
        return "not signed"
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(
            base64.b64decode(signature, validate=True), CONTEXT + text.encode()
        )
    except (InvalidSignature, binascii.Error, ValueError):
        return "the signature is wrong"
    return None


def check_all(lines: Iterable[str], public_key: bytes) -> tuple[int, list[tuple[int, str]]]:
    """How many lines are good, and (line number from 1, why) of the others. Lines without a receipt (skips) do not count."""
    good, bad = 0, list[tuple[int, str]]()
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError:
            bad.append((number, "not JSON"))
            continue
        if not isinstance(line, dict):
            bad.append((number, "not a receipt"))
        elif line.get("receipt") is None and line.get("outcome") not in ("deleted", "already_gone"):
            continue
        elif (why := check(line, public_key)) is not None:
            bad.append((number, why))
        else:
            good += 1
    return good, bad

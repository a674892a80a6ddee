"""The digests that a stored file is compared with, range by range, where it is checked in several calls."""

from __future__ import annotations

from pynamodb.attributes import BinaryAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.models import Model


class FileDigests(Model):
    """Up to `known.RANGES_A_ROW` ranges of a file from range number `first` (from 0), in order.

    `packed` holds 40 bytes a range: its size in bytes (8, big-endian) and its SHA-256 (32). The ranges of a file follow
    each other without a gap, so that offsets need not be kept. Never changes once it is there: a file's bytes never do.
    """

    class Meta:
        suffix = "file-digests"
        table_name = "file-digests"

    file_id = UnicodeAttribute(hash_key=True)
    first = NumberAttribute(range_key=True)
    packed = BinaryAttribute(legacy_encoding=False)


MODELS: list[type[Model]] = [FileDigests]

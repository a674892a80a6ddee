"""Byte sizes and ceilings, each with the source of its number. Imports nothing of the project."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# Amazon S3 user guide, "Multipart upload limits": parts 5 MiB to 5 GiB (the last may be smaller), 10,000 parts,
# object at most 5 TiB (the 50 TiB of late 2025 is not offered by other stores).
MIN_PART_BYTES = 5 * MIB
MAX_PARTS = 10_000
MAX_OBJECT_BYTES = 5 * 1024 * GIB

# Our part: large enough that one HTTP round trip is small beside it, small enough that four of them in flight
# stay far below the services tier's memory ceiling (see `S3Storage`).
PART_BYTES = 8 * MIB

# Files over this size take parts of twice that: on Ceph an upload then runs 8 % faster (fewer requests to sign and to
# answer), for 96 MiB of buffers instead of 48 in the services tier.
LARGE_FILE_BYTES, LARGE_PART_BYTES = 256 * MIB, 16 * MIB

# What passes between threads, sockets and files at a time. 1 MiB measured as fast as larger blocks.
BLOCK_BYTES = MIB

# Bounded buffer between the event loop and a handler's thread, each way (design, section 3).
BRIDGE_BUFFER_BYTES = 4 * MIB

# AWS Lambda quotas: invocation payload 6 MB (6 * 1024 * 1024) synchronous, request and response each. Base64 adds a
# third and the event adds headers, so a proxied chunk is at most 4 MiB.
LAMBDA_PAYLOAD_BYTES = 6 * MIB
LAMBDA_CHUNK_BYTES = 4 * MIB

# Seeds: files of more than 10 MB take the chunked call and its action (10 * 10**6: "10MB" in the seeds is not binary).
CHUNKED_ACTION_OVER_BYTES = 10 * 10**6

# Bodies that are JSON or a form's text fields, never file content.
MAX_JSON_BYTES = 64 * KIB

# A chunk that comes with a checksum is held in memory until it has been compared: nothing of it may be kept before. (Clients
# that send checksums, such as tuspy, send chunks of a few MiB.)
CHECKED_CHUNK_BYTES = 16 * MIB

# Design, section 4: a path is at most 1,024 bytes in UTF-8 (S3's key limit); 255 a segment (POSIX NAME_MAX).
MAX_PATH_BYTES = 1024
MAX_SEGMENT_BYTES = 255

# Design, section 3: slow headers and stalled bodies.
HEADER_TIMEOUT_SECONDS = 10.0
BODY_STALL_SECONDS = 30.0
MAX_HEADER_BYTES = 64 * KIB

# Design, section 5.
LEASE_SECONDS = 60
# The sweep leaves alone what changed less than a lease and this long ago: clocks that differ, a writer that was held up.
SWEEP_GRACE_SECONDS = 5 * 60
# Design, section 7: every stored file is read again and compared within this period.
INTEGRITY_PERIOD_DAYS = 30
# One process reads at most so much a second for it: about what a gigabit line carries, 8 TiB a day.
INTEGRITY_MIB_PER_SECOND = 100
# One clean-up deletes at most so many files, and at most this share of a disk's files once that is more than 100 files.
CLEANUP_MAX_FILES, CLEANUP_MAX_PERCENT = 10_000, 20
# The longest deadline that a temporary file may be given (hours): what is kept for longer is no temporary file.
MAX_TEMPORARY_HOURS = 30 * 24
PRESIGN_MAX_SECONDS = 15 * 60
# 45 CFR 164.316(b)(2)(i): documentation is retained for six years; two of them have a leap day, at most.
LEDGER_RETENTION_DAYS = 6 * 365 + 2


def part_bytes_for(size: int | None) -> int:
    """Bytes a part for a file of `size` bytes, so that 10,000 parts always suffice; unknown sizes (None) start small.

    >>> part_bytes_for(None) == part_bytes_for(256 * MIB) == 8 * MIB
    True
    >>> part_bytes_for(GIB) // MIB, part_bytes_for(5 * 1024 * GIB) // MIB
    (16, 525)
    """
    if size is None or size <= LARGE_FILE_BYTES:
        return PART_BYTES
    smallest = -(-size // MAX_PARTS)
    return max(LARGE_PART_BYTES, -(-smallest // MIB) * MIB)


def grown_part_bytes(number: int, start: int) -> int:
    """Bytes of part `number` (from 1) of a file whose size is not known: doubles every 1,000 parts.

    A fixed 8 MiB would end a stream of unknown length at 78 GiB; this reaches 5 TiB within 10,000 parts.
    """
    return int(start * 2 ** ((number - 1) // 1000))

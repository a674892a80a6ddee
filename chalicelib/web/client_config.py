"""`GET /config`: what a client must know before it sends anything. Needs no sign-in and tells nothing else."""

from __future__ import annotations

from typing import Any

from chalice.app import Blueprint, Response

from chalicelib.hosting.chalice_app import STREAMING
from chalicelib.limits import LAMBDA_CHUNK_BYTES, PART_BYTES
from chalicelib.web.tier import Tier


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)

    @bp.route("/config", methods=["GET"])
    def config() -> Response:
        """`{transfer, max_chunk_bytes, part_bytes}`, sizes in bytes; `max_chunk_bytes` null is no ceiling.

        `transfer` is `presigned` where parts may go straight to the storage (`/s3/*`), otherwise `proxy`.
        """
        answer = {
            "transfer": "presigned" if tier().uploads.presigning() else "proxy",
            "max_chunk_bytes": None if streams(bp.current_request) else LAMBDA_CHUNK_BYTES,
            "part_bytes": PART_BYTES,
        }
        return Response(answer, headers={"Cache-Control": "no-store"})

    return bp


def streams(request: Any) -> bool:
    """Whether the streaming host carries this request: no ceiling on bodies. Under Lambda there is one."""
    return STREAMING in request.to_original_event()

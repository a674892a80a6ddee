"""`/app/upload`: the upload page. With script it is Uppy over tus or presigned parts; without, a plain form."""

from __future__ import annotations

from chalice.app import Blueprint, Response

from chalicelib.auth.policy import Permission
from chalicelib.hosting.chalice_app import body_reader
from chalicelib.limits import LAMBDA_CHUNK_BYTES
from chalicelib.web.client_config import streams
from chalicelib.web.files import store
from chalicelib.web.forms import read_form
from chalicelib.web.pages import assets
from chalicelib.web.pages.kit import Kit, cohorts_of
from chalicelib.web.tier import Tier

# What `make assets` makes: there only where Node was.
SCRIPT, STYLE = "upload.js", "upload.css"


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)
    kit = Kit(bp, tier)

    @bp.route("/app/upload", methods=["GET"])
    @kit.page
    def ask() -> Response:
        principal = kit.sign_in()
        cohorts = cohorts_of(principal, Permission.UPLOAD)
        if cohorts == []:
            principal.require(Permission.UPLOAD, None)
        presigned = tier().uploads.presigning()
        ceiling = None if streams(bp.current_request) else LAMBDA_CHUNK_BYTES
        return kit.show(
            "upload.html",
            principal=principal,
            cohorts=cohorts,
            transfer="presigned" if presigned else "proxy",
            ceiling=ceiling,
            scripted=assets.has(SCRIPT),
            receipt=None,
            connect=(tier().uploads.store_origin(),) if presigned else (),
        )

    @bp.route("/app/upload", methods=["POST"], content_types=["multipart/form-data"])
    @kit.page
    def send() -> Response:
        request = bp.current_request
        principal = kit.sign_in()
        form = read_form(request.headers.get("content-type", ""), body_reader(request))
        fields = {**form.fields, "filename": form.filename}
        saved = store(principal, fields, form.content_type, form.content, {})
        return kit.show(
            "upload.html",
            201,
            principal=principal,
            cohorts=cohorts_of(principal, Permission.UPLOAD),
            transfer="proxy",
            ceiling=None,
            scripted=assets.has(SCRIPT),
            receipt=saved,
        )

    return bp

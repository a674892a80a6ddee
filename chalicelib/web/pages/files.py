"""`/app/files`: the files of a cohort, one file with its history, and deleting it."""

from __future__ import annotations

from chalice.app import Blueprint, Response

from chalicelib import http
from chalicelib.auth.policy import Permission
from chalicelib.storage.audit import Question
from chalicelib.storage.catalog import Listing
from chalicelib.storage.manager import StorageManager
from chalicelib.web.pages.kit import FORM, Kit, cohorts_of, following
from chalicelib.web.pages.render import see_other
from chalicelib.web.target import checked_file_id
from chalicelib.web.tier import Tier

PAGE_FILES = 50
HISTORY_EVENTS = 200


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)
    kit = Kit(bp, tier)

    @bp.route("/app/files", methods=["GET"])
    @kit.page
    def listing() -> Response:
        principal, query = kit.sign_in(), kit.query
        choice = cohorts_of(principal, Permission.LIST)
        cohort = query.get("cohort") or (choice[0] if choice else "")
        asked = Listing.of({"order": "newest", **query})
        page = None
        if cohort:
            page = tier().catalog.files(
                cohort, query.get("cursor"), http.page_limit(query.get("limit") or str(PAGE_FILES)), listing=asked
            )
        return kit.show(
            "files.html",
            principal=principal,
            cohort=cohort,
            cohorts=choice,
            asked=asked,
            files=page.files if page else None,
            next=following({**query, "cohort": cohort}, page.cursor if page else None),
            done=query.get("done", ""),
            filtered=asked.filters,
        )

    @bp.route("/app/files/{file_id}", methods=["GET"])
    @kit.page
    def one(file_id: str) -> Response:
        principal = kit.sign_in()
        view = tier().catalog.file(checked_file_id(file_id))
        events = None
        if principal.may(Permission.LEDGER, view.cohort):
            question = Question(file_id=view.file_id, cohort=view.cohort)
            events = tier().audit.page(question, None, HISTORY_EVENTS).events
        return kit.show(
            "file.html",
            principal=principal,
            file=view,
            events=events,
            may_read=principal.may(Permission.READ, view.cohort),
            may_delete=principal.may(Permission.DELETE, view.cohort),
        )

    @bp.route("/app/files/{file_id}/delete", methods=["GET"])
    @kit.page
    def confirm(file_id: str) -> Response:
        principal = kit.sign_in()
        view = tier().catalog.file(checked_file_id(file_id))
        principal.require(Permission.DELETE, view.cohort)
        return kit.show("delete.html", principal=principal, file=view)

    @bp.route("/app/files/{file_id}/delete", methods=["POST"], content_types=[FORM])
    @kit.page
    def delete(file_id: str) -> Response:
        principal = kit.sign_in()
        view = tier().catalog.file(checked_file_id(file_id))
        principal.require(Permission.DELETE, view.cohort)
        StorageManager.get_storage(view.disk).delete(view.path)
        return see_other(f"/app/files?cohort={view.cohort or ''}&done=deleted")

    return bp

"""`/app/report`: the storage report in the application's frame. The page that stands alone is `/reports/storage`."""

from __future__ import annotations

from chalice.app import Blueprint, Response

from chalicelib.auth.policy import Permission, report_scope
from chalicelib.web import report_page
from chalicelib.web.pages.kit import Kit
from chalicelib.web.tier import Tier


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)
    kit = Kit(bp, tier)

    @bp.route("/app/report", methods=["GET"])
    @kit.page
    def report() -> Response:
        principal = kit.sign_in()
        scope = report_scope(principal)
        if scope is not None and not scope:
            principal.require(Permission.LEDGER, None)
        return kit.show("report.html", principal=principal, body=report_page.body(tier().reports.storage()))

    return bp

"""`/app/report`: the storage report in the application's frame. The page that stands alone is `/reports/storage`."""

from __future__ import annotations

from chalice.app import Blueprint, Response
from markupsafe import Markup

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
        # Escaped where it is made: `report_page` is tested for that.
        body = Markup(report_page.body(tier().reports.storage()))  # noqa: S704
        return kit.show("report.html", principal=principal, body=body)

    return bp

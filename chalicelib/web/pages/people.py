"""`/app/people`: users, cohorts and roles, for administrators. A new password is shown once, in the answer to the form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chalice.app import Blueprint, Response

from chalicelib.auth.policy import ROLES, Permission, Principal
from chalicelib.errors import DepotError, NotFound
from chalicelib.web.pages.kit import FORM, Kit, following
from chalicelib.web.target import is_id
from chalicelib.web.tier import Tier

PAGE_USERS = 100


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)
    kit = Kit(bp, tier)

    def admitted() -> Principal:
        principal = kit.sign_in()
        principal.require(Permission.ADMIN, None)
        return principal

    def listed(principal: Principal, status: int = 200, **told: Any) -> Response:
        query = {"limit": str(PAGE_USERS), **({"cursor": kit.query["cursor"]} if kit.query.get("cursor") else {})}
        page = tier().people.ask("users", query)
        usual: dict[str, Any] = {"problem": None, "secret": None, "done": "", "typed": {}}
        return kit.show(
            "people.html",
            status,
            principal=principal,
            users=page["users"],
            cohorts=tier().people.ask("cohorts")["cohorts"],
            roles=ROLES,
            next=following({}, page["cursor"]),
            **{**usual, **told},
        )

    @bp.route("/app/people", methods=["GET"])
    @kit.page
    def people() -> Response:
        return listed(admitted())

    @bp.route("/app/people", methods=["POST"], content_types=[FORM])
    @kit.page
    def create() -> Response:
        """A user, or with `what=cohort` a cohort."""
        principal, form = admitted(), kit.form()
        try:
            if form.get("what") == "cohort":
                made = tier().people.ask("create_cohort", {"name": form.get("name", "").strip()})
                return listed(principal, 201, done=f"The cohort {made['name']} was created.")
            asked = {
                "username": form.get("username", "").strip(),
                "role": form.get("role", ""),
                "cohorts": _names(form),
            }
            made = tier().people.ask("create_user", asked)
        except DepotError as error:
            return listed(principal, error.status, problem=error, typed=form)
        return listed(principal, 201, secret=(made["username"], made["password"]))

    @bp.route("/app/people/{user_id}", methods=["POST"], content_types=[FORM])
    @kit.page
    def change(user_id: str) -> Response:
        """`do`: `save` (role and cohorts), `disable`, `enable`, `reset` (a new password)."""
        principal, form = admitted(), kit.form()
        if not is_id(user_id):
            raise NotFound
        try:
            if form.get("do") == "reset":
                made = tier().people.ask("reset_password", user_id=user_id)
                return listed(principal, secret=(made["username"], made["password"]))
            asked: dict[str, Any] = {"disabled": form.get("do") == "disable"}
            if form.get("do") == "save":
                asked = {"role": form.get("role", ""), "cohorts": _names(form)}
            made = tier().people.ask("change_user", asked, user_id=user_id)
        except DepotError as error:
            return listed(principal, error.status, problem=error)
        return listed(principal, done=f"{made['username']} was changed.")

    return bp


def _names(form: Mapping[str, str]) -> list[str]:
    """Cohorts, as the form has them: in one field, by commas or spaces."""
    return [name for name in form.get("cohorts", "").replace(",", " ").split() if name]

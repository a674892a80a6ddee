"""The operations on sessions, people, clean-up and holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from chalicelib import errors
from chalicelib.web.openapi import answers_people as people
from chalicelib.web.openapi import answers_upkeep as upkeep
from chalicelib.web.openapi import bodies
from chalicelib.web.openapi.operation import Answer, Operation, Parameter
from chalicelib.web.openapi.operations_files import CURSOR, LIMIT
from chalicelib.web.openapi.schemas import says

_COOKIE = {"Set-Cookie": "The session's cookie."}


def _own(summary: str, answer: Answer, body: Any = None, status: int = 200, **more: Any) -> Operation:
    return Operation("One's own account", summary, {status: answer}, body=body, **more)


def _people(summary: str, answer: Answer, body: Any = None, status: int = 200, **more: Any) -> Operation:
    return Operation("People", summary, {status: answer}, body=body, **more)


def _upkeep(summary: str, answer: Answer, body: Any = None, status: int = 200, **more: Any) -> Operation:
    return Operation("Clean-up and holds", summary, {status: answer}, body=body, **more)


OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("POST", "/session"): _own(
        "Sign in",
        Answer("A session.", people.Session, headers=_COOKIE),
        bodies.SignIn,
        raises=(errors.BadCredentials, errors.CodeRequired, errors.CrossSiteRequest, errors.PayloadTooLarge),
    ),
    ("GET", "/session"): _own("Who am I", Answer("The user of this request.", people.Me)),
    ("DELETE", "/session"): _own("Sign out", Answer("The session has ended.", people.SignedOut, headers=_COOKIE)),
    ("GET", "/session/oidc"): Operation(
        "One's own account",
        "Sign in through an issuer",
        {303: Answer("To the issuer.", headers={"Location": "Where.", **_COOKIE})},
        raises=(errors.IssuerOff, errors.IssuerUnavailable),
        about="Sign in with OpenID Connect, where it is switched on: sends a browser to the issuer.",
    ),
    ("GET", "/session/oidc/callback"): Operation(
        "One's own account",
        "Back from the issuer",
        {200: Answer("A page that leads on to the application.", media={"text/html": str}, headers=_COOKIE)},
        (
            Parameter("code", "The issuer's."),
            Parameter("state", "What was sent along."),
            Parameter("error", "The issuer's, where it refused."),
        ),
        raises=(errors.IssuerOff, errors.IssuerRefused, errors.IssuerUnavailable, errors.NoSuchAccount),
    ),
    ("POST", "/session/password"): _own(
        "Change the password", Answer("It is changed.", people.Changed), bodies.PasswordChange
    ),
    ("GET", "/sessions"): _own("List one's sessions", Answer("Those that stand.", people.OwnSessions)),
    ("DELETE", "/sessions"): _own("Sign out everywhere", Answer("All have ended.", people.SignedOut, headers=_COOKIE)),
    ("GET", "/tokens"): _own("List one's tokens", Answer("Those that stand.", people.Tokens)),
    ("POST", "/tokens"): _own("Make a token", Answer("The token.", people.NewToken), bodies.AskedToken, 201),
    ("DELETE", "/tokens/{token_id}"): _own(
        "Revoke a token", Answer("It is refused from here on.", people.RevokedToken), raises=(errors.TokenMissing,)
    ),
    ("POST", "/session/totp"): _own(
        "Ask for a second factor", Answer("What the authenticator needs.", people.SecondFactor), bodies.Password
    ),
    ("POST", "/session/totp/confirm"): _own(
        "Switch the second factor on",
        Answer("It is on.", people.RecoveryCodes),
        bodies.Code,
        raises=(errors.CodeRequired,),
    ),
    ("POST", "/session/totp/remove"): _own(
        "Switch the second factor off",
        Answer("It is off.", people.Removed),
        bodies.PasswordAndCode,
        raises=(errors.CodeRequired,),
    ),
    ("GET", "/users"): _people("List users", Answer("A page of users.", people.Users), parameters=(LIMIT, CURSOR)),
    ("POST", "/users"): _people(
        "Make a user", Answer("The user.", people.NewUser), bodies.AskedUser, 201, raises=(errors.AlreadyThere,)
    ),
    ("GET", "/users/{user_id}"): _people(
        "Describe a user", Answer("The user.", people.User), raises=(errors.UserMissing,)
    ),
    ("PATCH", "/users/{user_id}"): _people(
        "Change a user",
        Answer("The user.", people.User),
        bodies.UserChange,
        raises=(errors.UserMissing, errors.LastSuperuser),
    ),
    ("POST", "/users/{user_id}/password"): _people(
        "Reset a password", Answer("A new one.", people.NewPassword), raises=(errors.UserMissing,)
    ),
    ("GET", "/cohorts"): _people("List cohorts", Answer("All of them.", people.Cohorts)),
    ("POST", "/cohorts"): _people(
        "Make a cohort",
        Answer("The cohort.", people.Cohort),
        bodies.AskedCohort,
        201,
        raises=(errors.AlreadyThere, errors.InvalidPath),
    ),
    ("GET", "/break-glass"): _people("List break-glass accesses", Answer("Those that stand.", people.Grants)),
    ("POST", "/break-glass"): _people(
        "Break the glass",
        Answer("Reading one cohort, for a while.", people.Grant),
        bodies.AskedGrant,
        201,
        raises=(errors.AlreadyThere, errors.InvalidPath),
    ),
    ("DELETE", "/break-glass/{grant_id}"): _people(
        "End a break-glass access", Answer("It has ended.", people.EndedGrant), raises=(errors.GrantMissing,)
    ),
    ("POST", "/cleanup/plans"): _upkeep(
        "Plan a clean-up",
        Answer("The plan. Nothing is deleted.", upkeep.Plan, headers={"Location": "The plan's address."}),
        bodies.AskedPlan,
        201,
    ),
    ("GET", "/cleanup/plans/{plan_id}"): _upkeep(
        "Read a plan",
        Answer("The plan.", upkeep.Plan),
        parameters=(
            Parameter("after", "From this item on.", Annotated[int, says(minimum=0, maximum=10**9 - 1)]),
            LIMIT,
        ),
        raises=(errors.PlanMissing,),
    ),
    ("POST", "/cleanup/plans/{plan_id}/apply"): _upkeep(
        "Apply a plan",
        Answer("What became of each item.", upkeep.AppliedPlan),
        bodies.PlanToApply,
        raises=(errors.PlanMissing, errors.PlanExpired, errors.PlanChanged, errors.PlanInProgress),
    ),
    ("GET", "/cleanup/plans/{plan_id}/receipts"): _upkeep(
        "Receipts of a clean-up",
        Answer("One for each item.", upkeep.Receipts),
        raises=(errors.PlanMissing,),
    ),
    ("GET", "/holds"): _upkeep("List holds", Answer("Those that stand.", upkeep.Holds)),
    ("POST", "/holds"): _upkeep(
        "Set a hold",
        Answer("The hold.", upkeep.Hold),
        bodies.AskedHold,
        201,
        raises=(errors.FileMissing, errors.HoldExists, errors.UploadInProgress, errors.InvalidPath),
    ),
    ("POST", "/holds/lift"): _upkeep(
        "Lift a hold",
        Answer("It is lifted.", upkeep.LiftedHold),
        bodies.AskedHold,
        raises=(errors.HoldMissing, errors.InvalidPath),
    ),
}

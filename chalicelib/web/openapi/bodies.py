"""What the calls take as JSON. The handlers check by themselves; a test sends what these say. For this package."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from chalicelib.web.openapi.kinds import Bytes, Id, Role, TokenPermission
from chalicelib.web.openapi.schemas import says

Text = Annotated[str, says(minLength=1)]


class SignIn(TypedDict):
    """`code`: six digits of the authenticator, or a recovery code, where a second factor is on."""

    username: str
    password: str
    code: NotRequired[str | None]


class AskedUser(TypedDict):
    """Without a password one is made, and told once."""

    username: Text
    role: Role
    cohorts: list[str]
    password: NotRequired[str]


class UserChange(TypedDict):
    """At least one of them."""

    role: NotRequired[Role]
    cohorts: NotRequired[list[str]]
    disabled: NotRequired[bool]


class AskedCohort(TypedDict):
    name: Text


class PasswordChange(TypedDict):
    old: str
    new: str


class Password(TypedDict):
    password: str


class Code(TypedDict):
    code: str


class PasswordAndCode(TypedDict):
    password: str
    code: str


class AskedToken(TypedDict):
    """No more than one's own rights. Without cohorts: all of one's own."""

    name: Text
    permissions: list[TokenPermission]
    cohorts: NotRequired[list[str]]
    days: NotRequired[float]


class AskedGrant(TypedDict):
    cohort: Text
    reason: Text
    hours: NotRequired[float]


class AskedPlan(TypedDict):
    """`hours` 0: everything temporary, now; left out: what is past its own deadline."""

    hours: NotRequired[Annotated[float, says(minimum=0, maximum=87600)] | None]


class AskedLimits(TypedDict):
    max_files: NotRequired[Annotated[float, says(minimum=0)]]
    max_percent: NotRequired[Annotated[float, says(minimum=0, maximum=100)]]


class PlanToApply(TypedDict):
    """The hash that the plan was shown with."""

    hash: Text
    limits: NotRequired[AskedLimits]


class AskedHold(TypedDict):
    """Either a file or a cohort. The reason stands in the ledger: name no patient in it."""

    file_id: NotRequired[Id]
    cohort: NotRequired[Text]
    reason: Text


class DirectMetadata(TypedDict):
    """What the query of `POST /files` says, and the file's size, so that each part's length can be signed."""

    cohort: Text
    size: Annotated[int, says(minimum=1)]
    protocol_year: NotRequired[str]
    file_type: NotRequired[str]
    purpose: NotRequired[str]
    precheck_id: NotRequired[str]
    audit_id: NotRequired[str]
    overwrite: NotRequired[str]
    sha256: NotRequired[str]
    part_bytes: NotRequired[Bytes]


class AskedDirectUpload(TypedDict):
    """As Uppy's `@uppy/aws-s3` sends it; other metadata is passed over."""

    filename: Text
    type: NotRequired[str]
    metadata: DirectMetadata


class PartList(TypedDict):
    """Not looked at: the storage's own list counts."""

    parts: NotRequired[list[Any]]

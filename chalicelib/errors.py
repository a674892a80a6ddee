"""The one error table: what can go wrong, its code, its HTTP status, whether trying again can help.

Drivers translate `errno` and `ClientError` into these classes at their edge; blueprints turn them into
`{"error": {"code", "message", "request_id"}}`; the remote driver turns that answer back into the same class.
Messages tell the reader what to do next and never hold a path, a file name or a secret.
May be imported from everywhere; imports nothing of the project.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar


class DepotError(Exception):
    """Base of every error that Depot raises on purpose.

    `code` is stable and for programs, `status` is the HTTP answer, `retryable` says whether the same call may
    succeed later without a change by the caller, `default` is the message used when none is given.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    default: ClassVar[str] = "Something went wrong on our side. Try again; if it stays, report the request id."

    def __init__(self, message: str | None = None) -> None:
        self.message = message or self.default
        super().__init__(self.message)

    def to_body(self, request_id: str) -> dict[str, dict[str, str]]:
        """The JSON answer every tier gives for this error."""
        return {"error": {"code": self.code, "message": self.message, "request_id": request_id}}


class SettingsError(DepotError):
    """A setting is missing or wrong; the process must not start. One line, names the variable."""

    code = "bad_settings"
    default = "A setting is missing or wrong."


# --- what the caller sent -------------------------------------------------------------------------------------


class InvalidRequest(DepotError):
    code, status = "invalid_request", 400
    default = "The request is not of the form this call takes."


class InvalidPath(DepotError, ValueError):
    code, status = "invalid_path", 400
    default = "The path or file name is not allowed: use plain names without '..', backslashes or control characters."


class TruncatedBody(DepotError, OSError):
    """The body ended before its declared end. Never treated as the end of a file."""

    code, status, retryable = "body_truncated", 400, True
    default = "The body ended before its declared length. Nothing was kept; send it again."


class ClientDisconnected(TruncatedBody):
    """The sender's connection broke in the middle of a body; usually nobody is left to read the answer."""

    code = "client_disconnected"
    default = "The connection broke before the whole body had arrived. Nothing was kept; send it again."


class BodyStalled(TruncatedBody):
    code, status = "body_stalled", 408
    default = "No byte arrived for too long. Nothing was kept; send it again."


class LengthMismatch(DepotError):
    code, status = "length_mismatch", 400
    default = "The number of bytes received differs from the size that was announced. Nothing was kept."


class NotSignedIn(DepotError):
    code, status = "not_signed_in", 401
    default = "Sign in first: POST /session with username and password, then send the token as 'Authorization: Bearer'."


class BadCredentials(DepotError):
    code, status = "bad_credentials", 401
    default = "The user name or the password is wrong."


class CodeRequired(BadCredentials):
    """The password was right; the second factor is missing or wrong."""

    code = "code_required"
    default = "Send the six digits that your authenticator shows now, or a recovery code, as 'code'."


class IssuerRefused(DepotError):
    """Sign-in through the organisation's issuer came to nothing. Never says more than its reader may know."""

    code, status = "issuer_refused", 401
    default = "Signing in through your organisation did not succeed. Start again; if it stays, tell your administrator."


class NoSuchAccount(IssuerRefused):
    code, status = "no_account", 403
    default = "Your organisation knows you, but there is no account for you here. Ask your administrator to create one."


class IssuerOff(DepotError):
    code, status = "issuer_off", 404
    default = "Signing in through an organisation is not set up here. Sign in with user name and password."


class IssuerUnavailable(DepotError):
    code, status, retryable = "issuer_unavailable", 503, True
    default = "Your organisation's sign-in does not answer as it should. Try again in a while."


class BadApiKey(DepotError):
    code, status = "bad_api_key", 401
    default = "X-API-Key is missing or wrong: both tiers need the same INTERNAL_API_KEY."


class Forbidden(DepotError, PermissionError):
    code, status = "forbidden", 403
    default = "Your role does not allow this. Ask your administrator."


class SignInRequired(Forbidden):
    """A personal token was used where a person has to have signed in."""

    code = "sign_in_required"
    default = "A token cannot do this. Sign in with your password."


class LastSuperuser(Forbidden):
    code = "last_superuser"
    default = "This is the last superuser who can sign in. Make another one first."


class CrossSiteRequest(Forbidden):
    code = "cross_site_request"
    default = "This request came from another site. Use the application's own pages, or a bearer token."


class SecurityError(DepotError):
    """A tier tried what its role forbids, such as the web tier asking for a local disk."""

    code, status = "security_error", 403
    default = "This server's role does not allow that."


class FileMissing(DepotError, FileNotFoundError):
    code, status = "file_not_found", 404
    default = "There is no such file."

    # FileNotFoundError formats two arguments as errno and text; keep the plain message.
    def __str__(self) -> str:
        return self.message


class NotFound(DepotError):
    code, status = "not_found", 404
    default = "There is nothing at this address."


class UserMissing(DepotError):
    code, status = "user_not_found", 404
    default = "There is no such user."


class TokenMissing(DepotError):
    code, status = "token_not_found", 404
    default = "There is no such token."


class GrantMissing(DepotError):
    code, status = "break_glass_not_found", 404
    default = "There is no such break-glass access, or it has ended."


class AlreadyThere(DepotError):
    code, status = "already_exists", 409
    default = "There is one of that name already."


class UploadMissing(DepotError):
    code, status = "upload_not_found", 404
    default = "There is no such upload, or it has ended. Start a new one."


class UploadEnded(UploadMissing):
    """410: it was there, and it will not come back (aborted, failed, or expired)."""

    code, status = "upload_ended", 410
    default = "The upload was aborted, has failed or has expired. Start a new one."


class UnknownDisk(DepotError):
    code, status = "unknown_disk", 404
    default = "There is no disk of that name in STORAGE_CONFIG."


class FileExists(DepotError):
    code, status = "file_exists", 409
    default = "A file of that name is already there. Use another name, or delete the old one first."


class OnHold(DepotError):
    """A legal hold: nothing of it may be deleted or replaced until the hold is lifted."""

    code, status = "on_hold", 409
    default = "This file is on hold. Nothing of it may be deleted or replaced until an administrator lifts the hold."


class HoldExists(DepotError):
    code, status = "hold_exists", 409
    default = "There is a hold on this already. Lift it first to set it with another reason."


class HoldMissing(DepotError):
    code, status = "hold_not_found", 404
    default = "There is no such hold."


class PlanMissing(DepotError):
    code, status = "plan_not_found", 404
    default = "There is no such clean-up plan. Make a new one."


class PlanExpired(DepotError):
    code, status = "plan_expired", 410
    default = "The clean-up plan has expired: plans can be applied for one hour. Make a new one."


class PlanChanged(DepotError):
    code, status = "plan_changed", 409
    default = "The hash is not that of this clean-up plan. Nothing was deleted; read the plan again, or make a new one."


class PlanInProgress(DepotError):
    code, status, retryable = "plan_in_progress", 409, True
    default = "The clean-up plan is being applied. Ask again in a moment for what came of it."


class UploadInProgress(DepotError):
    code, status, retryable = "upload_in_progress", 409, True
    default = "Another upload to the same place is under way. Wait for it, or use another name."


class UploadLocked(UploadInProgress):
    """What tus clients understand by "wait a moment": 423, as tusd answers it."""

    code, status = "upload_locked", 423
    default = "Another request is working on this upload. Wait a moment, ask where it stands, and go on from there."


class OffsetConflict(DepotError):
    code, status = "offset_conflict", 409
    default = "The offset is not where the upload stands. Ask for its status and go on from there."


class LeaseLost(DepotError):
    code, status, retryable = "lease_lost", 409, True
    default = "Another writer took this upload over. Ask for its status before going on."


class UploadStateConflict(DepotError):
    code, status = "upload_state", 409
    default = "The upload is not in a state that allows this."


class ChecksumMismatch(DepotError):
    """tus 1.0, "Checksum": 460, and the chunk is not kept."""

    code, status, retryable = "checksum_mismatch", 460, True
    default = "The chunk's checksum differs from the one announced. It was not kept; send it again."


class IdempotencyMismatch(DepotError):
    code, status = "idempotency_mismatch", 422
    default = "This Idempotency-Key was used with other values. Use a new key for a new upload."


class PresigningOff(DepotError):
    code, status = "presigning_off", 404
    default = "Direct transfer to the storage is switched off here. Upload and download through /uploads and /files."


class CheckpointsOff(DepotError):
    code, status = "checkpoints_off", 404
    default = "The ledger gets no signed checkpoints here: the operator has named no place for them."


class OperationEnded(DepotError):
    """The ledger already holds the outcome of this operation; there is never a second one."""

    code, status = "operation_ended", 409
    default = "This operation has ended already. Ask for the state of the file before going on."


class JobRunning(DepotError):
    code, status, retryable = "job_running", 409, True
    default = "This job is running already, here or on another host. See GET /internal/jobs, or depot jobs."


class TusVersionUnsupported(DepotError):
    code, status = "tus_version", 412
    default = "This server speaks tus 1.0.0: send 'Tus-Resumable: 1.0.0'."


class UnsupportedMediaType(DepotError):
    code, status = "unsupported_media_type", 415
    default = "The Content-Type is not one that this call takes."


class PayloadTooLarge(DepotError):
    code, status = "payload_too_large", 413
    default = "The body is larger than this host takes in one request. Send it in parts."


class ResponseTooLarge(DepotError):
    code, status = "response_too_large", 413
    default = "The file is larger than this host can answer in one piece. Ask for it with Range, 4 MiB at a time."


class RangeNotSatisfiable(DepotError):
    code, status = "range_not_satisfiable", 416
    default = "The range lies outside the file."


class ForwardedDiffers(DepotError):
    """What the web tier says it forwarded is not what the services tier received."""

    code, status, retryable = "forwarded_differs", 502, True
    default = (
        "What one server forwarded is not what the other received. Nothing was kept; send the file again. "
        "The operator has been told."
    )


class DigestMismatch(DepotError):
    code, status, retryable = "digest_mismatch", 422, True
    default = "The SHA-256 of what arrived differs from the one announced. Nothing was kept; send it again."


class TooManyRequests(DepotError):
    """`retry_after`: in how many seconds it can be tried again, where that is known."""

    code, status, retryable = "too_many_requests", 429, True
    default = "Too many requests. Wait a little and try again."

    def __init__(self, message: str | None = None, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QuotaExceeded(DepotError):
    code, status = "quota_exceeded", 413
    default = "The quota is used up. Delete files that are no longer needed, or ask your administrator for more."


class TooManyUploads(TooManyRequests):
    code = "too_many_uploads"
    default = "Too many uploads are under way at once. Wait for one of them to end."


# --- what stands behind us ------------------------------------------------------------------------------------


class StorageError(DepotError):
    """The NAS failed in a way nothing more exact fits."""

    code, status, retryable = "storage_error", 502, True
    default = "The storage failed. Nothing was kept; try again, and tell the operator if it stays."


class StorageRefused(StorageError):
    code, retryable = "storage_refused", False
    default = "The storage refused the operation. The operator should check its permissions and credentials."


class StorageUnavailable(StorageError):
    code, status = "storage_unavailable", 503
    default = "The storage does not answer or is busy. Nothing was kept; try again in a while."


class StorageFull(StorageError):
    code, status = "storage_full", 507
    default = "The storage is full or over quota. Nothing was kept; ask the operator to make room."


class StorageBroken(StorageError):
    """Stale NFS handle, a directory entry nobody can read, a symlink where none belongs."""

    code, retryable = "storage_broken", False
    default = "The storage's file system is in a bad state. The operator should remount it or restart the container."


class UploadLost(StorageError):
    code, retryable = "upload_lost", False
    default = "The storage no longer knows this upload. Start it again from the beginning."


class ObjectCorrupt(StorageError):
    code, retryable = "object_corrupt", False
    default = "What the storage holds differs from what was written. The operator has been told."


class LedgerUnavailable(DepotError):
    code, status, retryable = "ledger_unavailable", 503, True
    default = "The tracking ledger cannot be written, so no file may move. Nothing was kept; try again in a while."


class LedgerBroken(DepotError):
    """A chain does not verify, or does not go on from its last checkpoint. An alarm, never to be passed over."""

    code = "ledger_broken"
    default = "The ledger does not verify. Nothing was signed; the operator has to look into it."


class ServicesUnavailable(DepotError):
    code, status, retryable = "services_unavailable", 503, True
    default = "The services tier does not answer. Nothing was kept; try again in a while."


class ServicesInterrupted(ServicesUnavailable):
    code, status = "services_interrupted", 502
    default = "The services tier went away in the middle. Check whether the file is there before sending it again."


class Unsupported(DepotError):
    code, status = "not_supported", 501
    default = "This storage cannot do that."


class ServerStopping(DepotError):
    code, status, retryable = "server_stopping", 503, True
    default = "The server is stopping. Nothing was kept; try again in a moment."


class ServerBusy(DepotError):
    code, status, retryable = "server_busy", 503, True
    default = "The server is handling as many requests as it can. Nothing was kept; try again in a moment."


class MethodNotAllowed(DepotError):
    code, status = "method_not_allowed", 405
    default = "This address does not take that method; the Allow header lists those it takes."


class HeaderTimeout(DepotError):
    code, status = "header_timeout", 408
    default = "The request's headers did not arrive in time."


class HeadersTooLarge(DepotError):
    code, status = "headers_too_large", 431
    default = "The request's headers are too large."


def _subclasses(cls: type[DepotError]) -> Iterator[type[DepotError]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from _subclasses(sub)


def table() -> dict[str, type[DepotError]]:
    """Every error by its code; the documentation and the remote driver are made from this."""
    return {cls.code: cls for cls in _subclasses(DepotError)}


def from_body(body: object, status: int) -> DepotError:
    """The error that another tier answered with, as the class it was raised with there.

    An answer that is not ours (a proxy's page, say) becomes a `ServicesUnavailable` that names the status.
    """
    if isinstance(body, dict) and isinstance(error := body.get("error"), dict):
        cls = table().get(str(error.get("code")))
        if cls is not None:
            return cls(str(error.get("message") or cls.default))
    return ServicesUnavailable(
        f"The services tier answered {status} in a form that is not Depot's. Check SERVICES_URL."
    )

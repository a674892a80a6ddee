"""The sweep: repairs what crashes left, of upload sessions, on the NAS, and in the ledger (docs/architecture.md).

Each repair holds the session's lease, or ends an operation that can end only once: so a session that is being written is
never touched, two sweeps may run at once, and running again does nothing. Made by the wiring; run by `depot sweep` and
the schedule.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import chain

from chalicelib import metrics, observability
from chalicelib.auth.policy import SERVICE
from chalicelib.errors import (
    DepotError,
    DigestMismatch,
    LeaseLost,
    LedgerUnavailable,
    OnHold,
    ServicesInterrupted,
    UploadEnded,
    UploadInProgress,
    UploadLost,
    UploadMissing,
)
from chalicelib.limits import SWEEP_GRACE_SECONDS
from nas_gateway.files.access import Call
from nas_gateway.files.registry import commit
from nas_gateway.files.tables import State, TrackedFile
from nas_gateway.uploads import rows
from nas_gateway.uploads.concatenation import Concatenation
from nas_gateway.uploads.left_open import LeftOpen
from nas_gateway.uploads.opening import PATH_HOLD_SECONDS
from nas_gateway.uploads.report import Finding, Report, Rule
from nas_gateway.uploads.service import Uploads
from nas_gateway.uploads.strays import Strays, take_idle
from nas_gateway.uploads.tables import Kind, UploadSession


class Sweep:
    """One pass over `disks`. `grace` in seconds: what is younger than a lease and this much is left alone."""

    def __init__(
        self,
        uploads: Uploads,
        concatenation: Concatenation,
        disks: Sequence[str],
        *,
        grace: float = SWEEP_GRACE_SECONDS,
    ) -> None:
        self._uploads, self._concatenation = uploads, concatenation
        self._transfers, self._stale = uploads.transfers, uploads.lease + grace
        self._strays = Strays(uploads, disks, stale=self._stale)
        self._left_open = LeftOpen(self._transfers, stale=self._stale, hold=uploads.lease)

    def run(
        self,
        *,
        dry_run: bool = False,
        over: Callable[[], bool] = lambda: False,
        only: Collection[tuple[str, str]] | None = None,
    ) -> Report:
        """Repair everything that is found; one failure does not stop the rest. A dry run only finds.

        `only`: (rule, id) of findings that an earlier run reported; no others are touched.

        It stops between two repairs once `over` says so; the next run goes on.

        Raises `LedgerUnavailable` when it cannot even look.
        """
        report = Report(dry_run)
        live = rows.live()
        found = chain(
            self._sessions(live),
            self._left_open.find(),
            self._strays.uploads({session.handle for session in live}, report),
            self._strays.tails(report),
        )
        for finding in found:
            if over():
                break
            if only is not None and (str(finding.rule), finding.id) not in only:
                continue
            report.note(finding)
            if not dry_run:
                self._apply(finding.rule, finding.repair, report)
        if not dry_run and only is None and not over():
            self._strays.discard_staged(report)
        for rule in sorted({*report.found, *report.repaired, *report.failed}):
            counts = {"found": report.found[rule], "count": report.repaired[rule]}
            failed = report.failed[rule].total() if rule in report.failed else 0
            observability.log_event(
                "swept", logging.WARNING if failed else logging.INFO, rule=rule, failed=failed, **counts
            )
        return report

    @staticmethod
    def _apply(rule: Rule, repair: Callable[[], Rule | None], report: Report) -> None:
        try:
            applied = repair()
        except (UploadInProgress, UploadMissing, LeaseLost, OnHold):  # somebody else is at it, or was; or a hold stands
            report.skipped += 1
        except DepotError as error:
            report.fail(rule, error.code)
        except Exception as error:  # noqa: BLE001 -- one broken row must not stop the repair of all others
            observability.log_exception("sweep_failed", error, rule=str(rule))
            report.fail(rule, "internal_error")
        else:
            if applied is None:
                report.skipped += 1
            else:
                report.repaired[applied] += 1

    # --- sessions -----------------------------------------------------------------------------------------------------

    def _sessions(self, live: Sequence[UploadSession]) -> Iterator[Finding]:
        now = self._transfers.clock()
        repairs = {
            Rule.ABANDONED: self._abandon,
            Rule.COMPLETED: self._complete,
            Rule.EXPIRED: self._expire,
            Rule.CONCATENATED: self._concatenate,
        }
        for session in live:
            rule = self._rule_for(session, now)
            if rule is not None:
                yield Finding(rule, session.disk, session.upload_id, partial(repairs[rule], session))

    def _rule_for(self, session: UploadSession, now: float) -> Rule | None:
        if session.lease_until >= now:
            return None
        if session.state == State.COMPLETING:
            return Rule.COMPLETED
        # These two states begin without a lease.
        begun_long_ago = session.created_at + self._stale < now
        if session.state == State.INTENT:
            return Rule.ABANDONED if begun_long_ago else None
        if session.expires_at < now:
            return Rule.EXPIRED
        return Rule.CONCATENATED if session.kind == Kind.FINAL and begun_long_ago else None

    def _abandon(self, found: UploadSession) -> Rule | None:
        session = take_idle(self._uploads, found, State.INTENT)
        with rows.released(session):
            error = ServicesInterrupted("The upload was announced, and then nothing of it came.")
            return self._end(session, State.FAILED, error, Rule.ABANDONED)

    def _expire(self, found: UploadSession) -> Rule | None:
        session = take_idle(self._uploads, found, State.OPEN)
        with rows.released(session):
            if session.expires_at >= self._transfers.clock():
                return None
            error = UploadEnded("The upload expired: nothing was added to it for too long.")
            return self._end(session, State.ABORTED, error, Rule.EXPIRED)

    def _complete(self, found: UploadSession) -> Rule | None:
        session = take_idle(self._uploads, found, State.COMPLETING)
        with rows.released(session):
            if self._transfers.ledger.open_intent(session.tracking_id) is None:
                return self._close(session)
            if not self._has_its_path(session):
                return self._end(session, State.FAILED, LeaseLost(), Rule.PATH_LOST)
            try:
                self._uploads.finisher.finish(session, None, again=True)
            except (UploadLost, DigestMismatch) as error:
                return _lost(session, error)
            except DepotError as error:
                if error.retryable or session.expires_at >= self._transfers.clock():
                    raise
                self._end(session, State.LOST, error, Rule.LOST)
                return _lost(session, error)
        if session.kind == Kind.FINAL:
            self._concatenation.discard_sources(Call(), session)
        return Rule.COMPLETED

    def _concatenate(self, found: UploadSession) -> Rule | None:
        """A final upload that has begun is our own work: nobody need come back for it."""
        if not self._has_its_path(found):
            session = take_idle(self._uploads, found, State.OPEN)
            with rows.released(session):
                return self._end(session, State.FAILED, LeaseLost(), Rule.PATH_LOST)
        try:
            self._concatenation.go_on(Call(), found.upload_id)
        except (UploadLost, DigestMismatch) as error:
            return _lost(found, error)
        self._concatenation.discard_sources(Call(), found)
        return Rule.CONCATENATED

    def _has_its_path(self, session: UploadSession) -> bool:
        """Hold the path again. If another upload took it, completing would put this file over that one's."""
        file = TrackedFile(session.file_id, disk=session.disk, path=session.path)
        try:
            self._transfers.registry.renew(file, PATH_HOLD_SECONDS)
        except LeaseLost:
            return False
        return True

    def _end(self, session: UploadSession, state: str, error: BaseException, rule: Rule) -> Rule:
        if self._transfers.ledger.open_intent(session.tracking_id) is None:
            return self._close(session)
        self._uploads.discard(session, state, error)
        if rows.get(session.upload_id, SERVICE).live:
            raise LedgerUnavailable  # `discard` says nothing where the ledger did not take it
        return rule

    def _close(self, session: UploadSession) -> Rule:
        """The ledger holds the outcome of a session that does not know it: a change of its transaction was refused."""
        registry, file = self._transfers.registry, self._transfers.registry.get(session.file_id)
        state = file.state if file is not None and file.state != State.INTENT else State.FAILED
        if session.handle:
            self._uploads.storage(session).abort_parts(session.path, session.handle)
        forgotten = [registry.withdrawn(file, state)] if file is not None and file.state == State.INTENT else []
        commit(*forgotten, rows.ended(session, state))
        rows.note_ended(session, state)
        return Rule.CLOSED


def _lost(session: UploadSession, error: DepotError) -> Rule:
    """Every byte was acknowledged, and there is no file: somebody has to be told."""
    fields = {"upload_id": session.upload_id, "file_id": session.file_id, "tracking_id": session.tracking_id}
    metrics.count("depot_uploads_lost_total")
    observability.log_event("upload_lost", logging.ERROR, error_code=error.code, disk=session.disk, **fields)
    return Rule.LOST

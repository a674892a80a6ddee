"""What belongs to the request being handled and must reach code that is not handed it: the user's assertion.

A context variable, so that threads do not see each other's. Set by the web tier's sign-in check, read by the remote
driver's header function. Imports nothing of the project.
"""

from __future__ import annotations

from contextvars import ContextVar

assertion: ContextVar[str | None] = ContextVar("depot_assertion", default=None)

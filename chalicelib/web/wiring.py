"""The web tier, put together. Nothing is made at import time."""

from __future__ import annotations

from dataclasses import fields

from chalicelib import dynamo
from chalicelib.auth.oidc import Issuer
from chalicelib.auth.people import RemotePeople
from chalicelib.auth.sessions import Sessions
from chalicelib.auth.signin import SignIn
from chalicelib.auth.tables import MODELS
from chalicelib.config import Settings
from chalicelib.storage.audit import RemoteAuditTrail
from chalicelib.storage.catalog import RemoteCatalog
from chalicelib.storage.checkpoints import RemoteCheckpoints
from chalicelib.storage.cleanup import RemoteCleanup
from chalicelib.storage.manager import StorageManager, make_transport
from chalicelib.storage.remote import RemoteUploadSessions, Transport
from chalicelib.storage.reports import RemoteReports
from chalicelib.storage.system import RemoteSystem
from chalicelib.web.tier import Backend, WebTier


def web_tier(settings: Settings, backend: Backend | None = None) -> WebTier:
    """The web tier for these settings. `backend` is given in the testing role only."""
    if backend is None:
        dynamo.bind(settings.table_prefix, settings.aws_region, *MODELS)
        StorageManager.configure(settings)
        backend = remote(make_transport(settings))
    parts = {item.name: getattr(backend, item.name) for item in fields(backend)}
    issuer = Issuer(settings.oidc, settings.session_secret) if settings.oidc is not None else None
    return WebTier(**parts, settings=settings, sessions=Sessions(settings), gate=SignIn(settings), issuer=issuer)


def remote(transport: Transport) -> Backend:
    """The services tier, over the network."""
    return Backend(
        RemoteCatalog(transport),
        RemoteUploadSessions(transport),
        RemoteAuditTrail(transport),
        RemoteReports(transport),
        RemoteCheckpoints(transport),
        RemoteCleanup(transport),
        RemotePeople(transport),
        RemoteSystem(transport),
    )

"""The web tier, put together. Nothing is made at import time."""

from __future__ import annotations

from chalicelib import dynamo
from chalicelib.auth.sessions import Sessions
from chalicelib.auth.tables import MODELS
from chalicelib.config import Settings
from chalicelib.storage.audit import AuditTrail, RemoteAuditTrail
from chalicelib.storage.catalog import Catalog, RemoteCatalog
from chalicelib.storage.manager import StorageManager, make_transport
from chalicelib.storage.remote import RemoteUploadSessions
from chalicelib.storage.uploads import UploadSessions
from chalicelib.web.tier import WebTier


def web_tier(
    settings: Settings,
    catalog: Catalog | None = None,
    uploads: UploadSessions | None = None,
    audit: AuditTrail | None = None,
) -> WebTier:
    """The web tier for these settings. `catalog`, `uploads` and `audit` are given in the testing role only."""
    if catalog is None or uploads is None or audit is None:
        dynamo.bind(settings.table_prefix, settings.aws_region, *MODELS)
        StorageManager.configure(settings)
        transport = make_transport(settings)
        catalog, uploads = RemoteCatalog(transport), RemoteUploadSessions(transport)
        return WebTier(settings, Sessions(settings), catalog, uploads, RemoteAuditTrail(transport))
    return WebTier(settings, Sessions(settings), catalog, uploads, audit)

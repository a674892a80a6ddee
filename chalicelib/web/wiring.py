"""The web tier, put together. Nothing is made at import time."""

from __future__ import annotations

from chalicelib import dynamo
from chalicelib.auth.sessions import Sessions
from chalicelib.auth.tables import MODELS
from chalicelib.config import Settings
from chalicelib.storage.catalog import Catalog, RemoteCatalog
from chalicelib.storage.manager import StorageManager, make_transport
from chalicelib.web.tier import WebTier


def web_tier(settings: Settings, catalog: Catalog | None = None) -> WebTier:
    """The web tier for these settings. `catalog` is given in the testing role only."""
    if catalog is None:
        dynamo.bind(settings.table_prefix, settings.aws_region, *MODELS)
        StorageManager.configure(settings)
        catalog = RemoteCatalog(make_transport(settings))
    return WebTier(settings, Sessions(settings), catalog)

"""The one Chalice app: reads SERVER_ROLE and registers that role's blueprints, nothing else.

Chalice imports this module to package it, so nothing is connected or parsed here beyond the role: each tier is wired when
its first request arrives, or by the host before it listens.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from chalicelib.config import Role, Settings
from chalicelib.hosting.chalice_app import DepotApp

if TYPE_CHECKING:
    from chalicelib.web.tier import WebTier
    from nas_gateway.api.guard import Gateway

app = DepotApp(app_name="depot")
role = os.environ.get("SERVER_ROLE", Role.WEB.value).strip().lower()


@cache
def settings() -> Settings:
    """The process's settings. Raises `SettingsError`."""
    return Settings.from_env(os.environ)


@cache
def gateway() -> Gateway:
    """The services tier, in the services and testing roles."""
    from nas_gateway import wiring

    return wiring.configure(settings())


@cache
def web_tier() -> WebTier:
    """The web tier, in the web and testing roles."""
    from chalicelib.web import wiring

    if role == Role.TESTING:
        from nas_gateway.wiring import local_audit, local_catalog, local_uploads

        gateway()
        return wiring.web_tier(
            settings(), local_catalog(settings()), local_uploads(settings()), local_audit(settings())
        )
    return wiring.web_tier(settings())


if role in (Role.WEB, Role.TESTING):
    from chalicelib.web import audit, client_config, files, health, presigned, session, tus

    for module in (session, files, tus, presigned, audit, client_config, health):
        app.register_blueprint(module.blueprint(web_tier))

if role in (Role.SERVICES, Role.TESTING):
    from nas_gateway.api import chunked, direct, records, root, storage

    for part in (storage, chunked, direct, records, *([root] if role == Role.SERVICES else [])):
        app.register_blueprint(part.blueprint(gateway))

"""The one Chalice app: reads SERVER_ROLE and registers that role's blueprints, nothing else.

Chalice imports this module to package it, so nothing is connected or parsed here beyond the role: each tier is wired when
its first request arrives, or by the host before it listens.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any

from chalicelib.config import Role, Settings
from chalicelib.hosting import emf
from chalicelib.hosting.chalice_app import DepotApp

if TYPE_CHECKING:
    from chalicelib.web.tier import WebTier
    from nas_gateway.api.guard import Gateway

app = DepotApp(app_name="depot")
role = os.environ.get("SERVER_ROLE", Role.WEB.value).strip().lower()
if "AWS_LAMBDA_RUNTIME_API" in os.environ:  # Lambda's own runtime, and no host
    app.emf = emf.install(role)


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
        from chalicelib.web.tier import Backend
        from nas_gateway import one_process

        return wiring.web_tier(settings(), Backend(**one_process.backend(settings())))
    return wiring.web_tier(settings())


if role in (Role.WEB, Role.TESTING):
    from chalicelib.web import (
        audit,
        checkpoints,
        cleanup,
        client_config,
        files,
        health,
        oidc,
        openapi,
        pages,
        people,
        presigned,
        report,
        session,
        tus,
    )

    for module in (
        session,
        oidc,
        people,
        files,
        tus,
        presigned,
        audit,
        checkpoints,
        cleanup,
        report,
        client_config,
        health,
        openapi,
    ):
        app.register_blueprint(module.blueprint(web_tier))
    for page in pages.blueprints(web_tier):
        app.register_blueprint(page)

if role in (Role.SERVICES, Role.TESTING):
    from nas_gateway.api import chunked, direct, integrity, jobs, ledger, records, reports, root, storage, workspace
    from nas_gateway.api import cleanup as cleanup_api
    from nas_gateway.api import people as people_api

    for part in (
        storage,
        cleanup_api,
        people_api,
        chunked,
        direct,
        records,
        ledger,
        integrity,
        jobs,
        reports,
        workspace,
        *([root] if role == Role.SERVICES else []),
    ):
        app.register_blueprint(part.blueprint(gateway))

if role == Role.SERVICES:
    from nas_gateway import schedules

    app.register_blueprint(schedules.blueprint(lambda: gateway().jobs))


def __getattr__(name: str) -> Any:
    """`job_NAME`, a scheduled handler: each is a Lambda function of its own, which the runtime looks up here by its name."""
    job = name.removeprefix("job_")
    if job != name and job in app.handler_map:
        return emf.flushing(app.emf, app.handler_map[job])
    raise AttributeError(name)

"""The browser application: pages rendered here, forms that work without script, and static files. Blueprints of the web tier.

A page asks the same objects as the JSON calls beside it (`WebTier`), so it can do nothing that they cannot. Registered by app.py.
"""

from __future__ import annotations

from chalice.app import Blueprint

from chalicelib.web.pages import account, assets, cleaning, docs, entry, files, people, report, system, trail, upload
from chalicelib.web.tier import Tier


def blueprints(tier: Tier) -> list[Blueprint]:
    """Every blueprint of the pages, over a web tier that is made on first use."""
    modules = (entry, files, upload, trail, report, cleaning, people, system, account, docs, assets)
    return [module.blueprint(tier) for module in modules]

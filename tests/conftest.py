"""Fixtures that every folder of tests shares."""

from tests.support.gateway import gateway
from tests.support.ministack_fixture import ministack_url

__all__ = ["gateway", "ministack_url"]

"""A services tier in this process whose clock can be moved, and how tests of the clean-up plant and look."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from chalicelib.storage.base import SavedPath
from chalicelib.storage.streams import BytesReader
from nas_gateway.api.guard import Gateway
from nas_gateway.files.access import Call
from nas_gateway.files.placement import place
from nas_gateway.files.tables import TrackedFile

HOUR = 3600.0


class Site:
    """`now` moves registry, use-cases and clean-up together. The stores go on telling real time."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway, self.now = gateway, gateway.transfers.clock()
        gateway.transfers.clock = lambda: self.now
        gateway.transfers.registry._clock = lambda: self.now
        gateway.transfers.deletion._clock = lambda: self.now

    def later(self, hours: float) -> None:
        self.now += hours * HOUR

    def save(self, path: str, data: bytes = b"x", disk: str = "scratch", **more: Any) -> SavedPath:
        where = place(disk, path, metadata=more.pop("metadata", None))
        return self.gateway.transfers.upload(Call(), where, BytesReader(data), **more)

    def plan(self, hours: float | None = None) -> dict[str, Any]:
        return self.gateway.cleanup.plan(Call(), hours)

    def apply(self, plan: dict[str, Any], **more: Any) -> dict[str, Any]:
        return self.gateway.cleanup.apply(Call(), plan["plan_id"], plan["hash"], **more)

    def clean(self, hours: float | None = None) -> dict[str, str]:
        """Plan and apply: outcome (and detail) by id."""
        return results(self.apply(self.plan(hours)))

    def paths(self, disk: str = "scratch") -> list[str]:
        return [info.path for info in self.gateway.transfers.disk(disk).list_files()]

    def row(self, file_id: str | None) -> TrackedFile:
        return TrackedFile.get(str(file_id), consistent_read=True)


def results(answer: dict[str, Any]) -> dict[str, str]:
    """What became of each item: the outcome, or why not."""
    return {item["file_id"]: item.get("detail") or item["outcome"] for item in answer["items"]}


def reasons(plan: dict[str, Any]) -> dict[str, str]:
    """Why what stays does, by id."""
    return {item["file_id"]: item["reason"] for item in plan["skipped"]}


def rules(plan: dict[str, Any]) -> dict[str, str]:
    """Why what goes does, by id."""
    return {item["file_id"]: item["rule"] for item in plan["items"]}


def with_settings(gateway: Gateway, **changed: Any) -> Any:
    """The gateway's settings with some of them changed."""
    return dataclasses.replace(gateway.settings, **changed)


@pytest.fixture
def site(gateway: Gateway) -> Site:
    return Site(gateway)

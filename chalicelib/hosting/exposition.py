"""`/metrics` of the streaming host: this process's metrics in Prometheus' text format, for who has the token.

Answered by the host itself, so that it says something also when every worker thread is busy. Lambda has no such address: it
prints the same names and values (`emf`). The only code that imports prometheus_client.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from chalicelib import metrics
from chalicelib.config import Secret
from chalicelib.errors import MethodNotAllowed, NotFound, NotSignedIn
from chalicelib.hosting.events import Answer

PATH: Final = "/metrics"


class _Table(Collector):
    """Every metric of the table; a counter without labels is there from the begin, as 0."""

    def __init__(self, registry: metrics.Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        samples: dict[str, list[metrics.Sample]] = {}
        for sample in self._registry.samples():
            samples.setdefault(sample.metric.name, []).append(sample)
        for name, metric in metrics.TABLE.items():
            counter = metric.kind is metrics.Kind.COUNTER
            family = (CounterMetricFamily if counter else GaugeMetricFamily)(name, metric.about, labels=metric.labels)
            for sample in samples.get(name, ()):
                family.add_metric([value for _, value in sample.labels], sample.value)
            if counter and not metric.labels and name not in samples:
                family.add_metric([], 0)
            yield family


def text(registry: metrics.Registry) -> bytes:
    """The exposition, Prometheus' text format 0.0.4."""
    collected = CollectorRegistry(auto_describe=False)
    collected.register(_Table(registry))
    return generate_latest(collected)


def answer(scope: Mapping[str, Any], token: Secret, request_id: str, registry: metrics.Registry) -> Answer:
    """The answer to `/metrics`. Raises `NotFound` where no token is set, `NotSignedIn`, `MethodNotAllowed`."""
    wanted = token.reveal()
    if not wanted:
        raise NotFound
    if not hmac.compare_digest(_bearer(scope["headers"]), wanted.encode()):
        raise NotSignedIn("Send METRICS_TOKEN as 'Authorization: Bearer'.")
    if scope["method"] not in ("GET", "HEAD"):
        raise MethodNotAllowed
    body = text(registry)
    headers = [
        (b"content-type", CONTENT_TYPE_PLAIN_0_0_4.encode()),
        (b"cache-control", b"no-store"),
        (b"x-request-id", request_id.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    return Answer(200, headers, b"" if scope["method"] == "HEAD" else body)


def _bearer(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The one bearer token that was sent; b"" for none, for several, and for anything else."""
    given = [value for name, value in headers if name == b"authorization"]
    scheme, _, credentials = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    return credentials.strip() if scheme.lower() == b"bearer" else b""

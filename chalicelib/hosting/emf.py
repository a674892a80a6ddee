"""Metrics under Lambda: CloudWatch's embedded metric format, one line for each set of labels at the end of an invocation.

The names are those of `/metrics`. `app.py` installs it in Lambda's runtime and nowhere else, so that nothing is printed on a
host. A counter's value is what the invocation added, a gauge's the last that was set.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from chalicelib import metrics
from chalicelib.metrics import Kind, Labels, Sample

NAMESPACE: Final = "Depot"
_UNITS: Final = {"1": "Count", "By": "Bytes", "s": "Seconds"}


class Emf:
    """What one process has to tell. `service` is a dimension of every metric: `depot-web` or `depot-services`."""

    def __init__(self, service: str) -> None:
        self._service, self._lock = service, threading.Lock()
        self._held: dict[Labels, dict[str, Sample]] = {}

    def note(self, sample: Sample) -> None:
        """Hold a change until the end of the invocation."""
        with self._lock:
            of_labels = self._held.setdefault(sample.labels, {})
            before = of_labels.get(sample.metric.name)
            if before is not None and sample.metric.kind is Kind.COUNTER:
                sample = Sample(sample.metric, sample.labels, before.value + sample.value)
            of_labels[sample.metric.name] = sample

    def flush(self) -> None:
        """Print what is held."""
        from aws_lambda_powertools.metrics import EphemeralMetrics

        with self._lock:
            held, self._held = self._held, {}
        for labels, samples in held.items():
            blob = EphemeralMetrics(namespace=NAMESPACE, service=self._service)
            for name, value in labels:
                blob.add_dimension(name, value)
            for name, sample in samples.items():
                blob.add_metric(name, _UNITS.get(sample.metric.unit, "None"), sample.value)
            blob.flush_metrics()


def service_of(role: str) -> str:
    """The dimension of a role's metrics; the alarms of infra.template look at it too."""
    return f"depot-{role}"


def install(role: str, registry: metrics.Registry = metrics.registry) -> Emf:
    """Tell what is counted from now on as EMF."""
    emf = Emf(service_of(role))
    registry.told = emf.note
    return emf


def flushing(emf: Emf | None, handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler of Lambda that prints its metrics before it returns, also when it raises."""
    if emf is None:
        return handler

    def handle(event: Any, context: Any) -> Any:
        try:
            return handler(event, context)
        finally:
            emf.flush()

    return handle

"""Figures for Prometheus. Labels come from fixed sets, never from a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """A service's counters. `gauges` is asked at each scrape for {metric: {label value: number}}."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter("geoclass_requests", "Answers given", ["route", "status"], registry=own)
        self.seconds = Histogram("geoclass_request_seconds", "Time to answer", ["route"], buckets=SECONDS, registry=own)
        self.batches = Histogram(
            "geoclass_batch_tiles", "Pictures in one pass of a network", buckets=SIZES, registry=own
        )
        self.network = Counter("geoclass_network_seconds", "Time spent in networks", registry=own)
        self.gauges: Callable[[], Mapping[str, Mapping[str, float]]] = dict
        self.registry.register(_Gauges(self))

    def answered(self, route: str, status: int, seconds: float) -> None:
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def batch(self, tiles: int, seconds: float) -> None:
        self.batches.observe(tiles)
        self.network.inc(seconds)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return bytes(generate_latest(self.registry))


class _Gauges:
    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    def collect(self) -> list[GaugeMetricFamily]:
        found = []
        for name, values in self.metrics.gauges().items():
            family = GaugeMetricFamily(name, f"{name.replace('_', ' ')} now", labels=["of"])
            for label, value in values.items():
                family.add_metric([label], value)
            found.append(family)
        return found

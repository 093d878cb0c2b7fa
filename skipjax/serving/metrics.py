"""What the service counts and measures, for Prometheus."""

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from skipjax.serving.answering import BATCH
from skipjax.serving.batching import Worker

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SESSIONS = tuple(2**i for i in range(BATCH.bit_length()))


class Metrics:
    """One registry for each service, so that several in a process do not mix."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self):
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "skipjax_requests",
            "Requests answered, by route and status.",
            ["route", "method", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "skipjax_request_seconds",
            "From a request's first byte read to its answer's last one written.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batch_sessions = Histogram(
            "skipjax_batch_sessions",
            "Sessions that a model worked on together.",
            ["model"],
            buckets=_SESSIONS,
            registry=self._registry,
        )
        self._batch_seconds = Histogram(
            "skipjax_batch_seconds",
            "What such a batch took.",
            ["model"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._queue = Gauge(
            "skipjax_queue_sessions", "Sessions that wait.", ["model"], registry=self._registry
        )

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batches_of(self, model: str) -> Callable[[int, float], None]:
        """A function to call after each batch with its number of sessions and its seconds."""
        sessions, seconds = self._batch_sessions.labels(model), self._batch_seconds.labels(model)

        def observe(number: int, took: float) -> None:
            sessions.observe(number)
            seconds.observe(took)

        return observe

    def watch_queue(self, model: str, worker: Worker) -> None:
        self._queue.labels(model).set_function(lambda: worker.waiting)

    def text(self) -> bytes:
        return generate_latest(self._registry)

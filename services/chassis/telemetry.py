"""Logs as JSON lines, metrics for Prometheus, traces by OpenTelemetry."""

from __future__ import annotations

import logging
import sys
import time
from functools import cache
from typing import TYPE_CHECKING, Protocol

from opentelemetry import trace
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from pythonjsonlogger.json import JsonFormatter

from services.chassis.call import current_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import CollectorRegistry

    from services.chassis.settings import ServerSettings

# Upper bounds in seconds, from a cached search to a long generation.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

_handled = Counter("penstock_rpc_handled", "RPCs that ended, by status code.", ["method", "code"])
_seconds = Histogram("penstock_rpc_seconds", "Seconds from an RPC's arrival to its end.", ["method"], buckets=_BUCKETS)
_in_flight = Gauge("penstock_rpc_in_flight", "RPCs being served.")


def begin() -> None:
    """Counts an RPC in."""
    _in_flight.inc()


def end(method: str, code: str, started: float) -> None:
    """Counts and times an RPC that ended with the gRPC code of this name; `started` is on the clock of `time.monotonic`."""
    _in_flight.dec()
    # A caller can make up methods; each would stay in memory as a series of its own.
    known = method if code != "UNIMPLEMENTED" else "unknown"
    _handled_as(known, code).inc()
    _timed(known).observe(time.monotonic() - started)


@cache
def _handled_as(method: str, code: str) -> Counter:
    """Finding a series by its labels costs more than counting in it."""
    return _handled.labels(method, code)


@cache
def _timed(method: str) -> Histogram:
    return _seconds.labels(method)


class Exposures(Protocol):
    """Counts of exposures since the start, as `penstock.assigner.Assigner.exposures` keeps them."""

    recorded: int
    dropped: int
    refused: int


class _ExposureCounts(Collector):
    def __init__(self, exposures: Exposures) -> None:
        self._exposures = exposures

    def collect(self) -> Iterator[CounterMetricFamily]:
        counts = CounterMetricFamily(
            "penstock_exposures", "Exposures to experiments, by what became of them.", labels=("outcome",)
        )
        counts.add_metric(("recorded",), self._exposures.recorded)
        counts.add_metric(("dropped",), self._exposures.dropped)
        counts.add_metric(("refused",), self._exposures.refused)
        yield counts


def watch_exposures(exposures: Exposures, registry: CollectorRegistry = REGISTRY) -> None:
    """Puts the counts into /metrics. Lost exposures bias an experiment, so they must be seen."""
    registry.register(_ExposureCounts(exposures))


class _CallFilter(logging.Filter):
    """Adds the request and the trace that a line belongs to."""

    def filter(self, record: logging.LogRecord) -> bool:
        call = current_call()
        if call.request_id:
            record.request_id = call.request_id
            record.method = call.method
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            record.trace_id = format(span.trace_id, "032x")
        return True


def start_logging(service: str, level: str) -> None:
    """Sends all logs of the process to standard error, one JSON object a line."""
    formatter = JsonFormatter(
        ["asctime", "levelname", "name", "message"],
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        static_fields={"service": service},
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(_CallFilter())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def start_metrics(address: str) -> Callable[[], None]:
    """Serves /metrics on `host:port` from a thread of its own; returns what stops it. An empty address serves nothing."""
    if not address:
        return lambda: None
    host, _, port = address.rpartition(":")
    server, thread = start_http_server(int(port), host)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


def start_traces(service: str, settings: ServerSettings) -> Callable[[], None]:
    """Exports spans by OTLP over gRPC where an endpoint is set; returns what flushes them.

    Without an endpoint the SDK is not even imported: trace ids still travel and stand in the logs.
    """
    if not settings.otel_exporter_otlp_endpoint:
        return lambda: None
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - costly, see above
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - as above
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - as above
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - as above

    provider = TracerProvider(resource=Resource.create({"service.name": f"penstock-{service}"}))
    exporter = OTLPSpanExporter(endpoint=settings.otel_exporter_otlp_endpoint)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return provider.shutdown

"""A small collector of OpenTelemetry: takes OTLP over HTTP, and decodes the protobuf."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Collector:
    """What came in; `status` is what it answers."""

    address: str = ""
    status: int = 200
    traces: list[ExportTraceServiceRequest] = field(default_factory=list)
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)

    @property
    def spans(self) -> list[Any]:
        """All spans."""
        return [
            span for one in self.traces for resource in one.resource_spans for scope in resource.scope_spans
            for span in scope.spans
        ]  # fmt: skip

    @property
    def measured(self) -> dict[str, Any]:
        """All metrics by name."""
        return {
            metric.name: metric for one in self.metrics for resource in one.resource_metrics
            for scope in resource.scope_metrics for metric in scope.metrics
        }  # fmt: skip

    def take(self, path: str, data: bytes) -> None:
        """Decode one request."""
        if path == "/v1/traces":
            self.traces.append(ExportTraceServiceRequest.FromString(data))
        elif path == "/v1/metrics":
            self.metrics.append(ExportMetricsServiceRequest.FromString(data))


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a free port of this machine."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Take what was sent."""
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                data = gzip.decompress(data)
            if collector.status == 200:
                collector.take(self.path, data)
            self.send_response(collector.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        collector.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()

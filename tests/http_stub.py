"""A local HTTP server for the stubs of services."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StubHandler(BaseHTTPRequestHandler):
    """A handler that sends JSON and logs nothing."""

    def log_message(self, *_: Any) -> None:
        pass

    def send_json(self, status: int, value: Any, headers: Mapping[str, str] = {}) -> None:
        self.send_body(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})

    def send_body(self, status: int, data: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:  # the client disconnected
        pass


@contextmanager
def serve_http(handler: type[StubHandler]) -> Iterator[str]:
    """Serve requests with ``handler`` in a thread, and yield the server's URL."""
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

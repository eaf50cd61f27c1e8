"""A local Hub server: searches, file lists and downloads for the Hub client, with configurable faults."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from http_stub import StubHandler, serve_http

ID = "mlx-community/tiny"
COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """``files`` by repository and name. ``cut`` truncates every download of a file at that byte; ``damage`` names files whose
    last byte is changed. ``requests`` records method, path and range start. Without ``ranges`` downloads always start at 0."""

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, list[str]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    damage: set[str] = field(default_factory=set)
    ranges: bool = True
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    address: str = ""


@contextmanager
def serve(stub: Hub) -> Iterator[Hub]:
    class Handler(_Handler):
        hub = stub

    with serve_http(Handler) as stub.address:
        yield stub


class _Handler(StubHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._file(body=False)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        if parts[:2] in (["api", "models"], ["api", "datasets"]):
            self._api("/".join(parts[2:4]), parts, parse_qs(url.query).get("search", [""])[0].lower())
        else:
            self._file(body=True)

    def _api(self, id: str, parts: list[str], text: str) -> None:
        self.hub.requests.append(("GET", self.path, 0))
        if not id:
            self.send_json(200, [self._model(id) for id in self.hub.files if text in id.lower()])
        elif id not in self.hub.files:
            self.send_json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        else:
            self.send_json(200, list(map(self._entry, self.hub.files[id].items())) if "tree" in parts else self._model(id))

    def _model(self, id: str) -> dict[str, Any]:
        siblings = [{"rfilename": name} for name in self.hub.files[id]]
        return {"id": id, "sha": COMMIT, "downloads": 12, "gated": False, "tags": self.hub.tags.get(id, []), "siblings": siblings}

    @staticmethod
    def _entry(item: tuple[str, bytes]) -> dict[str, Any]:
        name, data = item
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": git}
        if name.endswith(".safetensors"):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 120}
        return entry

    def _file(self, *, body: bool) -> None:
        owner, name, _, _, file = self.path.strip("/").removeprefix("datasets/").split("/", 4)
        data = self.hub.files.get(f"{owner}/{name}", {}).get(file)
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.hub.requests.append(("GET" if body else "HEAD", self.path, start))
        if data is None:
            self.send_json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        entry = self._entry((file, data))
        etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        if file in self.hub.damage:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = start if self.hub.ranges else 0
        end = self.hub.cut.get(file, len(data))
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes", "Content-Length": str(len(data) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.send_body(206 if start else 200, data[start:end], headers)
        if body and end < len(data):
            self.wfile.flush()
            self.close_connection = True

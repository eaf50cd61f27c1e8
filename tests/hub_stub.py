"""A local Hub server: the HTTP API for searches, downloads, and pushes, with configurable faults.

Paths and bodies are those of the huggingface-hub client: file lists, resolve, repositories, preupload, LFS batches, and commits.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from http_stub import StubHandler, serve_http

ID = "mlx-community/tiny"
COMMIT = "c0ffee" + "0" * 34


@dataclass
class Repo:
    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    tags: list[str] = field(default_factory=list)
    commits: int = 0

    @property
    def sha(self) -> str:
        return hashlib.sha1(str(self.commits).encode()).hexdigest() if self.commits else COMMIT


@dataclass
class Hub:
    """Its repositories, the requests it received (method, path, and range start), and its faults.

    ``token`` grants write access. ``refuse`` maps a part of a method and path to the statuses of the next requests with it. ``cut`` has
    the bytes at which the next downloads of a file end, and ``damage`` names files whose last byte is changed. Without ``ranges``,
    downloads always start at 0.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    token: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    refuse: dict[str, list[int]] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)
    damage: set[str] = field(default_factory=set)
    ranges: bool = True
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    url: str = ""

    def count(self, part: str) -> int:
        """Count requests with ``part`` in their method and path."""
        return sum(part in f"{method} {path}" for method, path, _ in self.requests)


@contextmanager
def serve(stub: Hub) -> Iterator[Hub]:
    class Handler(_Handler):
        hub = stub

    with serve_http(Handler) as stub.url:
        yield stub


class _Handler(StubHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def _begin(self) -> tuple[list[str], bytes] | None:
        """Record a request, and return the parts of its path and its body, or ``None`` if it is refused."""
        body, path = self.rfile.read(int(self.headers.get("Content-Length") or 0)), unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, self.path, self._start))
        for part, statuses in self.hub.refuse.items():
            if statuses and part in f"{self.command} {path}":
                self.send_json(statuses.pop(0), {"error": f"no, {self.headers.get('Authorization')}"})
                return None
        return path.strip("/").removeprefix("datasets/").split("/"), body

    @property
    def _start(self) -> int:
        return int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])

    @property
    def _is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def do_GET(self) -> None:
        match self._begin():
            case ["api", "models" | "datasets"], _:
                text = parse_qs(urlsplit(self.path).query).get("search", [""])[0].lower()
                self.send_json(200, [self._model(id) for id in self.hub.repos if text in id.lower()])
            case ["api", _, owner, name, *rest], _:
                if repo := self._readable(f"{owner}/{name}"):
                    entries = list(map(self._entry, repo.files.items()))
                    self.send_json(200, entries if "tree" in rest else self._model(f"{owner}/{name}"))
            case [owner, name, "resolve", _, *file], _:
                if repo := self._readable(f"{owner}/{name}"):
                    self._file(repo, "/".join(file))

    do_HEAD = do_GET

    def _readable(self, id: str) -> Repo | None:
        repo = self.hub.repos.get(id)
        if repo is None or (repo.private and not self._is_owner):
            self.send_json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        return repo

    def _model(self, id: str) -> dict[str, Any]:
        repo = self.hub.repos[id]
        siblings = [{"rfilename": name, "size": len(data)} for name, data in repo.files.items()]
        shown = {"id": id, "sha": repo.sha, "private": repo.private, "downloads": 12, "gated": False, "tags": repo.tags}
        return shown | {"siblings": siblings}

    @staticmethod
    def _entry(item: tuple[str, bytes]) -> dict[str, Any]:
        name, data = item
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": git}
        if name.endswith((".safetensors", ".gguf")):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 120}
        return entry

    def _oid(self, repo: Repo, name: str) -> str:
        entry = self._entry((name, repo.files[name]))
        return entry.get("lfs", entry)["oid"]

    def _file(self, repo: Repo, name: str) -> None:
        if name not in repo.files:
            self.send_json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        data, etag = repo.files[name], self._oid(repo, name)
        if name in self.hub.damage:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = self._start if self.hub.ranges else 0
        cut = self.hub.cut.get(name)
        end = cut.pop(0) if cut and self.command == "GET" else len(data)
        length = {"Accept-Ranges": "bytes", "Content-Length": str(len(data) - start)}
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": repo.sha, **length}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.send_body(206 if start else 200, data[start:end], headers)
        if end < len(data):
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()

    def do_POST(self) -> None:
        if (begun := self._begin()) is None:
            return
        place, body = begun
        if not self._is_owner:
            error = {"error": f"who is {self.headers.get('Authorization')}?"}
            self.send_json(401, error, {"X-Error-Message": "Invalid token"})
            return
        match place:
            case ["api", "repos", "create"]:
                self._create(json.loads(body))
            case ["api", "validate-yaml"]:
                self.send_json(200, {"errors": [], "warnings": []})
            case ["verify"]:
                self.send_json(200, {})
            case ["api", "models", owner, name, "preupload", "main"]:
                repo, files = self.hub.repos[f"{owner}/{name}"], []
                for path in (item["path"] for item in json.loads(body)["files"]):
                    mode = "lfs" if "lfs" in self._entry((path, b"")) else "regular"
                    oid = self._oid(repo, path) if path in repo.files else None
                    files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
                self.send_json(200, {"files": files})
            case [_, _, "info", "lfs", "objects", "batch"]:
                objects = []
                for item in json.loads(body)["objects"]:
                    actions = {
                        "upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"},
                        "verify": {"href": f"{self.hub.url}/verify"},
                    }
                    objects.append({**item, **({} if item["oid"] in self.hub.blobs else {"actions": actions})})
                self.send_json(200, {"transfer": "basic", "objects": objects})
            case ["api", "models", owner, name, "commit", "main"]:
                self._commit(f"{owner}/{name}", body)

    def _create(self, payload: dict[str, Any]) -> None:
        name = f"{payload['organization']}/{payload['name']}"
        if name in self.hub.repos:
            self.send_json(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
            return
        self.hub.repos[name] = Repo(private=payload.get("visibility") == "private")
        self.send_json(200, {"url": f"{self.hub.url}/{name}", "name": name})

    def _commit(self, name: str, body: bytes) -> None:
        repo = self.hub.repos[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo.files[value["path"]] = self.hub.blobs[value["oid"]]
        repo.commits += 1
        self.send_json(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{repo.sha}", "commitOid": repo.sha, "hookOutput": ""})

    def do_PUT(self) -> None:
        if begun := self._begin():
            place, body = begun
            assert hashlib.sha256(body).hexdigest() == place[-1]
            self.hub.blobs[place[-1]] = body
            self.send_json(200, {})

"""A local Hub server: the HTTP API that push and pull use, with configurable faults.

Paths and bodies are those of the huggingface-hub client: repositories, preupload, LFS batches, commits, resolve.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from http_stub import StubHandler, serve_http


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0

    @property
    def sha(self) -> str:
        state = json.dumps([self.commits, *((name, hashlib.sha256(data).hexdigest()) for name, data in sorted(self.files.items()))])
        return hashlib.sha1(state.encode()).hexdigest()


class Hub:
    """Its repositories, the requests it received, and its faults.

    ``token`` grants write access. ``refuse`` maps a part of a path to the statuses of the next requests with it; ``cut`` lists after
    how many bytes the next downloads end.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.refuse: dict[str, list[int]] = {}
        self.cut: list[int] = []
        self.url = ""

    def count(self, part: str) -> int:
        """Count requests with ``part`` in their method and path."""
        return sum(part in line for line in self.requests)


@contextmanager
def serve(token: str) -> Iterator[Hub]:
    """Run a Hub server."""
    hub = Hub(token)

    class Handler(StubHandler):
        protocol_version = "HTTP/1.1"

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _begin(self) -> tuple[str, bytes, bool]:
            path, body = unquote(urlsplit(self.path).path), self._body()
            hub.requests.append(f"{self.command} {path}")
            for part, statuses in hub.refuse.items():
                if part in f"{self.command} {path}" and statuses:
                    self.send_json(statuses.pop(0), {"error": f"no, {self.headers.get('Authorization')}"})
                    return path, body, False
            return path, body, True

        def do_POST(self) -> None:
            path, body, allowed = self._begin()
            if not allowed:
                return None
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.send_json(
                    401, {"error": f"who is {self.headers.get('Authorization')}?"}, {"X-Error-Message": "Invalid token"}
                )
            if path == "/api/repos/create":
                return self._create(json.loads(body))
            if path == "/api/validate-yaml":
                return self.send_json(200, {"errors": [], "warnings": []})
            if path.startswith("/verify"):
                return self.send_json(200, {})
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
                return self._preupload(hub.repos[match[1]], json.loads(body))
            if re.fullmatch(r"/[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
                return self._batch(json.loads(body))
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
                return self._commit(match[1], body)
            return self.send_json(404, {"error": path})

        def _create(self, payload: dict[str, Any]) -> None:
            name = f"{payload['organization']}/{payload['name']}"
            if name in hub.repos:
                return self.send_json(409, {"error": "You already created this model repo", "url": f"{hub.url}/{name}"})
            hub.repos[name] = Repo(payload.get("visibility") == "private")
            return self.send_json(200, {"url": f"{hub.url}/{name}", "name": name})

        def _preupload(self, repo: Repo, payload: dict[str, Any]) -> None:
            files = []
            for item in payload["files"]:
                large = item["path"].endswith((".safetensors", ".gguf"))
                data = repo.files.get(item["path"])
                git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() if data is not None else None
                oid = hashlib.sha256(data).hexdigest() if data is not None and large else git
                files.append({"path": item["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid})
            return self.send_json(200, {"files": files})

        def _batch(self, payload: dict[str, Any]) -> None:
            objects = []
            for item in payload["objects"]:
                exists = item["oid"] in hub.blobs
                actions = {"upload": {"href": f"{hub.url}/lfs/{item['oid']}"}, "verify": {"href": f"{hub.url}/verify"}}
                objects.append({**item, **({} if exists else {"actions": actions})})
            return self.send_json(200, {"transfer": "basic", "objects": objects})

        def _commit(self, name: str, body: bytes) -> None:
            repo = hub.repos[name]
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    repo.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    repo.files[value["path"]] = hub.blobs[value["oid"]]
            repo.commits += 1
            return self.send_json(
                200, {"commitUrl": f"{hub.url}/{name}/commit/{repo.sha}", "commitOid": repo.sha, "hookOutput": ""}
            )

        def do_PUT(self) -> None:
            path, body, allowed = self._begin()
            if allowed:
                oid = path.rsplit("/", 1)[-1]
                assert hashlib.sha256(body).hexdigest() == oid
                hub.blobs[oid] = body
                self.send_json(200, {})

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path, _, allowed = self._begin()
            if not allowed:
                return
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/.+)?", path):
                repo = self._readable_repo(match[1])
                if repo:
                    files = [{"rfilename": name, "size": len(data)} for name, data in repo.files.items()]
                    info = {"_id": "1", "id": match[1], "modelId": match[1], "sha": repo.sha, "private": repo.private}
                    self.send_json(
                        200, info | {"siblings": files, "cardData": {"license": "mit"}, "tags": [], "downloads": 0, "likes": 0}
                    )
                return
            if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                repo = self._readable_repo(match[1])
                if repo:
                    self._file(repo, match[3])
                return
            self.send_json(404, {"error": path})

        def _readable_repo(self, name: str) -> Repo | None:
            repo = hub.repos.get(name)
            if repo is None or (repo.private and self.headers.get("Authorization") != f"Bearer {hub.token}"):
                self.send_json(
                    401 if not self.headers.get("Authorization") else 404, {"error": "none"}, {"X-Error-Code": "RepoNotFound"}
                )
                return None
            return repo

        def _file(self, repo: Repo, name: str) -> None:
            data = repo.files.get(name)
            if data is None:
                return self.send_json(404, {"error": "none"}, {"X-Error-Code": "EntryNotFound"})
            start = 0
            if range_header := self.headers.get("Range"):
                hub.ranges.append(range_header)
                start = int(range_header.removeprefix("bytes=").split("-")[0])
            headers = {
                "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Repo-Commit": repo.sha,
                "Content-Length": str(len(data) - start),
            }
            if range_header:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            cut = self.command != "HEAD" and hub.cut and len(data) > hub.cut[0]
            self.send_body(206 if range_header else 200, data[start : start + hub.cut.pop(0) if cut else None], headers)
            if cut:
                self.close_connection = True
                self.connection.close()
            return None

    with serve_http(Handler) as hub.url:
        yield hub

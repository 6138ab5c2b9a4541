"""A hub on this machine: as much of its interface as pushing and pulling a model, and streaming a dataset, take."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

COMMIT = "c" * 40


@dataclass
class Hub:
    """What was pushed, by repository and file.

    Attributes:
        datasets: Files of repositories of datasets, which can't be pushed.
        parts: What was asked for of files in parts, in order: file and range.
    """

    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    datasets: dict[tuple[str, str], bytes] = field(default_factory=dict)
    parts: list[tuple[str, str]] = field(default_factory=list)
    address: str = ""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        pass

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = self.path.strip("/").split("/")
        if parts[:2] == ["api", "datasets"] and parts[4] == "paths-info":
            wanted = parse_qs(body.decode()).get("paths", [])
            self.answer(json.dumps([e for e in self.entries(parts) if e["path"] in wanted]).encode())
        elif parts[:3] == ["api", "repos", "create"]:
            wanted = json.loads(body)
            url = f"{self.hub.address}/{wanted['organization']}/{wanted['name']}"
            self.answer(json.dumps({"url": url}).encode())
        elif parts[-1] == "validate-yaml":
            self.answer(b'{"errors": [], "warnings": []}')
        elif "preupload" in parts:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self.answer(json.dumps({"files": modes}).encode())
        elif "commit" in parts:
            repository = "/".join(parts[2:4])
            self.keep(repository, body)
            url = f"{self.hub.address}/{repository}/commit/{COMMIT}"
            self.answer(json.dumps({"commitUrl": url, "commitOid": COMMIT, "success": True}).encode())
        else:
            self.answer(b"{}", 404)

    def keep(self, repository: str, body: bytes) -> None:
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                name, content = entry["value"]["path"], entry["value"]["content"]
                self.hub.files[repository, name] = base64.b64decode(content)

    def entries(self, parts: list[str]) -> list[dict[str, object]]:
        """The files of a repository of datasets, and the folders, as the hub lists them."""
        repository = "/".join(parts[2:4])
        files = {name: content for (owner, name), content in self.hub.datasets.items() if owner == repository}
        folders = {name.rpartition("/")[0] for name in files} - {""}
        return [
            *({"type": "directory", "path": name, "oid": COMMIT, "size": 0} for name in folders),
            *({"type": "file", "path": n, "oid": sha1(c).hexdigest(), "size": len(c)} for n, c in files.items()),
        ]

    def do_dataset(self, parts: list[str]) -> None:
        if parts[0] == "api" and len(parts) > 5 and parts[4] == "tree":
            folder = "/".join(parts[6:])
            listed = [e for e in self.entries(parts) if str(e["path"]).rpartition("/")[0] == folder]
            self.answer(json.dumps(listed).encode())
        elif parts[0] == "api" and self.entries(parts):
            facts = {"id": "/".join(parts[2:4]), "sha": COMMIT, "private": False, "tags": [], "siblings": []}
            self.answer(json.dumps(facts).encode())
        elif parts[0] == "datasets" and ("/".join(parts[1:3]), "/".join(parts[5:])) in self.hub.datasets:
            name = "/".join(parts[5:])
            content = self.hub.datasets["/".join(parts[1:3]), name]
            asked = self.headers.get("Range", "").removeprefix("bytes=")
            if not asked:
                self.answer(content, X_Repo_Commit=COMMIT, ETag=f'"{name}"')
                return
            self.hub.parts.append((name, asked))
            first, last = map(int, asked.split("-"))
            self.answer(content[first : last + 1], 206, Content_Range=f"bytes {first}-{last}/{len(content)}")
        else:
            self.answer(b"{}", 404, X_Error_Code="EntryNotFound")

    def do_GET(self) -> None:
        split = self.path.partition("?")[0].strip("/").split("/")
        if "datasets" in split[:2]:
            self.do_dataset(split)
            return
        org, name, resolve, _, file = [*self.path.strip("/").split("/"), "", "", "", ""][:5]
        content = self.hub.files.get((f"{org}/{name}", file)) if resolve == "resolve" else None
        if content is None:
            self.answer(b"{}", 404, X_Error_Code="RepoNotFound")
        else:
            self.answer(content, X_Repo_Commit=COMMIT, ETag=f'"{len(content)}-{file}"')

    def do_HEAD(self) -> None:
        self.do_GET()


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()

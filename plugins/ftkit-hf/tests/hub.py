"""A hub on this machine: as much of its interface as pushing and pulling a model takes."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


@dataclass
class Hub:
    """What was pushed, by repository and file, and the settings of a process that is to use this hub."""

    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
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
        if parts[:3] == ["api", "repos", "create"]:
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

    def do_GET(self) -> None:
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

"""A small Hub on this machine: the part of its HTTP protocol by which files are listed, downloaded and uploaded."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".pt")
"""Endings of what is kept as large files, by SHA-256; the others have git's hash."""


class Hub:
    """Repositories as folders; what is to go wrong is set from outside."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.cut: dict[str, list[int]] = {}
        """By file name: after how many bytes each of the next answers breaks off."""
        self.corrupt: set[str] = set()
        """Names of files that arrive damaged."""
        self.asked: list[tuple[str, str, str | None]] = []
        """Method, path, and the range that was asked for."""
        self.commits: dict[str, str] = {}
        """Commits that are stated whatever the repository holds."""
        self.uploaded: dict[str, bytes] = {}
        self.address = ""

    def add(self, name: str, folder: Path | None = None, **files: bytes) -> str:
        """Put a repository there; returns its commit."""
        found = {file.name: file.read_bytes() for file in folder.iterdir()} if folder else {}
        self.repositories[name] = {**found, **files}
        return self.commit(name)

    def commit(self, name: str) -> str:
        """The newest commit: a hash of all that it holds."""
        if name in self.commits:
            return self.commits[name]
        listed = sorted((file, hashlib.sha1(content).hexdigest()) for file, content in self.repositories[name].items())
        return hashlib.sha1(repr(listed).encode()).hexdigest()

    def etag(self, file: str, content: bytes) -> str:
        """What the Hub states about a file."""
        if file.endswith(LARGE):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def repository(self, name: str, revision: str) -> dict[str, bytes] | None:
        """Its files; or answers what the Hub answers where there is none."""
        if name in self.hub.gated:
            self.answer(403, {"error": "restricted"}, X_Error_Code="GatedRepo")
        elif name not in self.hub.repositories:
            self.answer(401, {"error": "not found"}, X_Error_Code="RepoNotFound")
        elif revision not in ("main", self.hub.commit(name)):
            self.answer(404, {"error": "no such revision"}, X_Error_Code="RevisionNotFound")
        else:
            return self.hub.repositories[name]
        return None

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            name, files = match[1], self.repository(match[1], match[2] or "main")
            if files is not None:
                siblings = [{"rfilename": file} for file in files]
                self.answer(200, {"id": name, "sha": self.hub.commit(name), "siblings": siblings})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            files = self.repository(match[1], match[2])
            if files is not None:
                self.answer(200, [self.listed(file, content) for file, content in files.items()])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            files = self.repository(match[1], match[2])
            if files is not None:
                self.send_file(match[1], match[3], files)
        else:
            self.answer(404, {"error": path})

    do_HEAD = do_GET

    def listed(self, file: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "type": "file",
            "path": file,
            "size": len(content),
            "oid": self.hub.etag(file, content),
        }
        if file.endswith(LARGE):
            entry["lfs"] = {"oid": entry["oid"], "size": len(content), "pointerSize": 130}
        return entry

    def send_file(self, name: str, file: str, files: dict[str, bytes]) -> None:
        if file not in files:
            return self.answer(404, {"error": "no such file"}, X_Error_Code="EntryNotFound")
        content, hub = files[file], self.hub
        headers = {"ETag": f'"{hub.etag(file, content)}"', "X-Repo-Commit": hub.commit(name), "Accept-Ranges": "bytes"}
        if file in hub.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        status, total, begin = 200, len(content), 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            status, begin = 206, int(match[1])
            headers["Content-Range"] = f"bytes {begin}-{total - 1}/{total}"
        self.send_response(status)
        for header, value in {**headers, "Content-Length": str(total - begin)}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        cuts = hub.cut.get(file)
        if cuts:
            self.wfile.write(content[begin : begin + cuts.pop(0)])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
        else:
            self.wfile.write(content[begin:])
        return None

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self.body()
        self.hub.asked.append((self.command, path, None))
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
            self.hub.repositories.setdefault(name, {})
            self.answer(200, {"url": f"{self.hub.address}/{name}", "name": name, "id": name})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            modes = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                 "shouldIgnore": False}
                for file in files
            ]  # fmt: skip
            self.answer(200, {"files": modes})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {
                    "oid": o["oid"],
                    "size": o["size"],
                    "actions": {"upload": {"href": f"{self.hub.address}/put/{o['oid']}"}},
                }
                for o in json.loads(body)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self.commit(match[1], [json.loads(line) for line in body.splitlines()])
        else:
            self.answer(404, {"error": path})

    def do_PUT(self) -> None:
        self.hub.uploaded[self.path.rpartition("/")[2]] = self.body()
        self.answer(200)

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = self.hub.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploaded[value["oid"]]
        commit = self.hub.commit(name)
        url = f"{self.hub.address}/{name}/commit/{commit}"
        self.answer(200, {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub at ``hub.address`` as long as the block lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()

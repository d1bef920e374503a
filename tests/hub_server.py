"""A local HTTP server that speaks the part of the Hugging Face Hub's API that downloads and uploads use."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PAGE = b"<!DOCTYPE html><title>Welcome to the hotel</title>"


class HubServer:
    """Repositories in memory or on disk, and faults on request.

    Attributes:
        repositories: repository -> file name -> bytes, or a path to a file.
        faults: names of faults: ``truncate`` (half of the content under the right size), ``wrong-hash`` (other content
            under the stated hash), ``error`` (status 500), ``status-403`` and the like, ``unauthorised`` (status 401 for
            uploads), ``portal`` (a page in place of everything), ``page`` (a page as content of every file), ``escape`` (an
            ETag that is a path), ``wait`` (downloads are to be tried again in an hour), ``redirect`` (to itself),
            ``elsewhere`` (downloads come from the server `other`), ``headers-drip`` and ``drip`` (headers or content byte by
            byte), ``skew`` (its clock is wrong by decades).
        other: address of another server.
        requests: ``(method, path, authorization)`` of every request.
    """

    def __init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.reset()

    def reset(self) -> None:
        """Forget repositories, faults, uploads and requests."""
        self.repositories: dict[str, dict[str, bytes | Path]] = {}
        self.faults: set[str] = set()
        self.other = ""
        self.requests: list[tuple[str, str, str | None]] = []
        self.uploads: dict[str, bytes] = {}
        self._digests: dict[int, str] = {}

    def start(self) -> None:
        """Serve in a thread."""
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Close the port."""
        self.server.shutdown()
        self.server.server_close()

    def content(self, repository: str, file: str) -> bytes:
        """A file as a client should get it."""
        value = self.repositories[repository][file]
        if isinstance(value, Path):
            value = self.repositories[repository][file] = value.read_bytes()
        return value

    def digest(self, content: bytes) -> str:
        """SHA-256 of a file, computed once."""
        if id(content) not in self._digests:
            self._digests[id(content)] = hashlib.sha256(content).hexdigest()
        return self._digests[id(content)]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._resolve(body=False)

    def do_GET(self) -> None:
        self._resolve(body=True)

    def do_PUT(self) -> None:
        self._note()
        content = self._body()
        self.hub.uploads[hashlib.sha256(content).hexdigest()] = content
        self._send(200, b"", ETag='"ok"')

    def do_POST(self) -> None:
        self._note()
        body = self._body()
        if "unauthorised" in self.hub.faults:
            self._send(401, b'{"error": "Invalid username or password."}')
        elif self.path == "/api/repos/create":
            request = json.loads(body)
            name = f"{request.get('organization') or 'tester'}/{request['name']}"
            self.hub.repositories.setdefault(name, {})
            self._json({"url": f"{self.hub.url}/{name}", "name": name, "id": name})
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
                for f in json.loads(body)["files"]
            ]
            self._json({"files": [{**f, "shouldIgnore": False, "oid": None} for f in files], "commitOid": COMMIT})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "authenticated": True, "actions": {"upload": {"href": f"{self.hub.url}/upload/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            self._commit(match[1], body)
            self._json({"commitUrl": f"{self.hub.url}/{match[1]}/commit/{COMMIT}", "commitOid": COMMIT, "success": True})
        else:
            self._json({"success": True})

    def _commit(self, repository: str, body: bytes) -> None:
        files = self.hub.repositories[repository]
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]

    def _resolve(self, body: bool) -> None:
        self._note()
        status = next((int(fault[7:]) for fault in self.hub.faults if fault.startswith("status-")), None)
        if "error" in self.hub.faults or status:
            self._send(status or 500, b"{}")
            return
        if "portal" in self.hub.faults:
            self._send(200, PAGE, **{"Content-Type": "text/html"})
            return
        if "redirect" in self.hub.faults:
            self._send(302, b"", Location=self.path)
            return
        if "headers-drip" in self.hub.faults:
            self._drip(b"HTTP/1.1 200 OK\r\n" + b"X-More: and more\r\n" * 1000)
            return
        if "elsewhere" in self.hub.faults and body:
            self._send(302, b"", Location=self.hub.other + self.path)
            return
        if "wait" in self.hub.faults and body:
            self._send(429, b"{}", **{"Retry-After": "3600"})
            return
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", self.path.split("?")[0]):
            files = self.hub.repositories.get(match[1])
            if files is None:
                self._send(404, b"{}", **{"X-Error-Code": "RepoNotFound"})
            else:
                self._json({"id": match[1], "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})
            return
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path.split("?")[0])
        files = self.hub.repositories.get(match[1]) if match else None
        if files is None:
            self._send(404, b"{}", **{"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif match[2] not in ("main", COMMIT):
            self._send(404, b"{}", **{"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        elif match[3] not in files:
            headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": COMMIT}
            self._send(404, b"{}", **headers)
        else:
            self._file(PAGE if "page" in self.hub.faults else self.hub.content(match[1], match[3]), body)

    def _file(self, content: bytes, body: bool) -> None:
        digest = self.hub.digest(content)
        headers = {"ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        headers |= {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if "escape" in self.hub.faults:
            headers |= {"ETag": '"../../../../escaped"', "X-Linked-Etag": '"../../../../escaped"'}
        if "wrong-hash" in self.hub.faults:
            content = content[:-8] + bytes(8)
        start = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if start >= len(content):
                self._send(416, b"", **{"Content-Range": f"bytes */{len(content)}"})
                return
        part = content[start:]
        self.send_response(206 if start else 200)
        for key, value in {**headers, "Content-Length": str(len(part))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            if "truncate" in self.hub.faults:
                part = part[: len(part) // 2]
                self.close_connection = True
            if "drip" in self.hub.faults:
                self._drip(part)
            else:
                self.wfile.write(part)

    def _drip(self, content: bytes) -> None:
        """Until the client has had enough."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            for i in range(len(content)):
                self.wfile.write(content[i : i + 1])
                time.sleep(0.1)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(0 if "skew" in self.hub.faults else timestamp)

    def _json(self, value) -> None:
        self._send(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _note(self) -> None:
        self.hub.requests.append((self.command, self.path, self.headers.get("Authorization")))

    def log_message(self, *args) -> None:
        """Keep the test output clean."""

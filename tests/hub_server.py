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
from urllib.parse import unquote

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
        heads: repository -> newest commit; `COMMIT` of what nobody has uploaded.
        commits: commit -> its files.
        tags: repository -> tag -> commit.
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
        self.heads: dict[str, str] = {}
        self.commits: dict[str, dict[str, bytes | Path]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self._digests: dict[int, str] = {}

    def start(self) -> None:
        """Serve in a thread."""
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Close the port."""
        self.server.shutdown()
        self.server.server_close()

    def head(self, repository: str) -> str:
        """The newest commit of a repository."""
        return self.heads.get(repository, COMMIT)

    def resolve(self, repository: str, revision: str) -> tuple[str, dict[str, bytes | Path]] | None:
        """The commit that a branch, tag or commit stands for, and its files; None: there is none."""
        head = self.head(repository)
        commit = head if revision == "main" else self.tags.get(repository, {}).get(revision, revision)
        files = self.repositories[repository] if commit == head else self.commits.get(commit)
        return None if files is None else (commit, files)

    def content(self, repository: str, file: str, revision: str = "main") -> bytes:
        """A file as a client should get it."""
        _, files = self.resolve(repository, revision)
        value = files[file]
        if isinstance(value, Path):
            value = files[file] = value.read_bytes()
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
            modes = {f["path"]: "lfs" if f["path"].endswith(".safetensors") else "regular" for f in json.loads(body)["files"]}
            files = [{"path": k, "uploadMode": v, "shouldIgnore": False, "oid": None} for k, v in modes.items()]
            self._json({"files": files, "commitOid": self.hub.head(match[1])})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "authenticated": True, "actions": {"upload": {"href": f"{self.hub.url}/upload/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            commit = self._commit(match[1], body)
            self._json({"commitUrl": f"{self.hub.url}/{match[1]}/commit/{commit}", "commitOid": commit, "success": True})
        elif match := re.fullmatch(r"/api/models/(.+)/tag/([^/]+)", self.path):
            tags, name = self.hub.tags.setdefault(match[1], {}), json.loads(body)["tag"]
            if name in tags:
                self._send(409, b'{"error": "Tag already exists"}')
            else:
                tags[name], _ = self.hub.resolve(match[1], match[2])
                self._json({"success": True})
        else:
            self._json({"success": True})

    def _commit(self, repository: str, body: bytes) -> str:
        files = self.hub.repositories[repository]
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
        commit = hashlib.sha1(self.hub.head(repository).encode() + body).hexdigest()
        self.hub.heads[repository], self.hub.commits[commit] = commit, dict(files)
        return commit

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
                siblings = [{"rfilename": name} for name in files]
                self._json({"id": match[1], "sha": self.hub.head(match[1]), "siblings": siblings})
            return
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/refs", self.path):
            if match[1] in self.hub.repositories:
                tags = self.hub.tags.get(match[1], {}).items()
                refs = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": commit} for name, commit in tags]
                self._json({"tags": refs, "branches": [], "converts": []})
            else:
                self._send(404, b"{}", **{"X-Error-Code": "RepoNotFound"})
            return
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path.split("?")[0])
        if match is None or match[1] not in self.hub.repositories:
            self._send(404, b"{}", **{"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return
        repository, revision, name = match.groups()
        found = self.hub.resolve(repository, unquote(revision))
        if found is None:
            self._send(404, b"{}", **{"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
            return
        commit, files = found
        if name not in files:
            headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": commit}
            self._send(404, b"{}", **headers)
        else:
            content = PAGE if "page" in self.hub.faults else self.hub.content(repository, name, commit)
            self._file(content, commit, body)

    def _file(self, content: bytes, commit: str, body: bool) -> None:
        digest = self.hub.digest(content)
        headers = {"ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        headers |= {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
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

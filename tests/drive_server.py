"""A local HTTP server that behaves like the public side of Google Drive: folder pages, warnings, downloads, refusals.

gdown asks for fixed addresses of Google. `DriveServer.lead_here` leads every request of `requests` here instead: the whole
client runs, down to its adapter, and no request leaves the machine.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import requests


def page(title: str, body: str) -> str:
    """A page in one line, as Google writes them."""
    return f"<!DOCTYPE html><html><head><title>{title}</title></head><body>{body}</body></html>"


WARNING = page(
    "Google Drive - Virus scan warning",
    '<p class="uc-warning-caption">Google Drive can\'t scan this file for viruses.</p>'
    '<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
    '<input type="submit" id="uc-download-link" value="Download anyway"/>'
    '<input type="hidden" name="id" value="ID"><input type="hidden" name="export" value="download">'
    '<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="0a1b"></form>',
)
QUOTA = page(
    "Google Drive - Quota exceeded",
    '<p class="uc-error-caption">Sorry, you can\'t view or download this file at this time.</p><p class="uc-error-subcaption">'
    "Too many users have viewed or downloaded this file recently. Please try accessing the file again later.</p>",
)
NOT_FOUND = page("Error 404 (Not Found)!!1", "<p>404.</p>")
SIGN_IN = page("Sign in - Google Accounts", "")
HOTEL = page("Welcome to the hotel", "Room?")
HOSTS = ("drive.google.com", "drive.usercontent.google.com")


class DriveServer:
    """One public folder.

    Attributes:
        folder: its id.
        files: names and contents, or paths of files.
        faults: names of faults: ``no-folder`` (status 404 for the folder), ``quota``, ``moved``, ``private`` (pages in place
            of the files), ``hotel`` (a page in place of everything), ``page`` (a page as the content of every file), ``cut``
            (half of what is left comes, then the connection ends), ``cut-once``, ``no-ranges`` (a part of a file can't be
            asked for), ``loop`` (the warning comes again and again), ``hang`` (no answer).
        requests: host, path and the header ``Range`` of every request.
        cookies: what was sent of them.
    """

    def __init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"drive": self}))
        self.server.daemon_threads = True
        self.folder = ""
        self.files: dict[str, bytes | Path] = {}
        self.faults: set[str] = set()
        self.requests: list[tuple[str, str, str | None]] = []
        self.cookies: list[str] = []

    def id_of(self, name: str) -> str:
        """Drive's id of a file."""
        return f"{list(self.files).index(name):0>28}-{len(name)}"

    def content(self, id_: str) -> tuple[str, bytes] | None:
        """Name and content of a file."""
        for name, value in self.files.items():
            if self.id_of(name) == id_:
                return name, value.read_bytes() if isinstance(value, Path) else value
        return None

    def lead_here(self, monkeypatch) -> None:
        """Send what `requests` sends to Google here, and the rest to where nobody listens."""
        send, port = requests.adapters.HTTPAdapter.send, self.server.server_address[1]

        def led(adapter, request, **options):
            parts = urlsplit(request.url)
            known = parts.scheme == "https" and parts.hostname in HOSTS
            request.headers["X-Host"] = parts.hostname
            request.url = f"http://127.0.0.1:{port if known else 9}{parts.path}?{parts.query}"
            return send(adapter, request, **{**options, "proxies": {}})

        monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", led)

    def start(self) -> None:
        """Serve in a thread."""
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Close the port."""
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    drive: DriveServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        drive, url = self.drive, urlsplit(self.path)
        host = self.headers["X-Host"]
        drive.requests.append((host, self.path, self.headers.get("Range")))
        drive.cookies += self.headers.get_all("Cookie", [])
        if "hang" in drive.faults:
            time.sleep(5)
            return
        if "hotel" in drive.faults:
            self._page(200, HOTEL)
            return
        asked = parse_qs(url.query).get("id", [""])[0]
        if (host, url.path) == (HOSTS[0], "/embeddedfolderview"):
            self._folder(asked)
        elif (host, url.path) in ((HOSTS[0], "/uc"), (HOSTS[1], "/download")):
            self._file(asked, confirmed="confirm=" in url.query)
        else:
            self._page(404, NOT_FOUND)

    def _folder(self, asked: str) -> None:
        drive = self.drive
        if "no-folder" in drive.faults or asked != drive.folder:
            self._page(404, NOT_FOUND)
            return
        links = "".join(
            f'<a href="https://drive.google.com/file/d/{drive.id_of(name)}/view?usp=drive_web" target="_blank">'
            f'<div class="flip-entry-title">{escape(name)}</div></a>'
            for name in drive.files
        )
        self._page(200, page("GRepQ weights", links))

    def _file(self, asked: str, confirmed: bool) -> None:
        drive, found = self.drive, self.drive.content(asked)
        if found is None or "moved" in drive.faults:
            self._page(404, NOT_FOUND)
        elif "quota" in drive.faults:
            self._page(200, QUOTA)
        elif "private" in drive.faults:
            self._page(200, SIGN_IN)
        elif not confirmed or "loop" in drive.faults:
            self._page(200, WARNING.replace("ID", asked))
        else:
            self._content(*found)

    def _content(self, name: str, content: bytes) -> None:
        faults = self.drive.faults
        if "page" in faults:
            content = HOTEL.encode()
        match = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(match[1]) if match and "no-ranges" not in faults else 0
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": f"attachment; filename=\"{name}\"; filename*=UTF-8''{name}",
            "Last-Modified": "Mon, 05 Feb 2024 10:00:00 GMT",
            "Accept-Ranges": "bytes",
        }
        if start >= len(content):
            self._send(416, b"", {"Content-Range": f"bytes */{len(content)}", "Content-Type": "text/plain"})
            return
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        part = content[start:]
        sent = part[: (len(part) + 1) // 2] if faults & {"cut", "cut-once"} else part
        if len(sent) < len(part):
            self.close_connection = True
            faults.discard("cut-once")
        self._send(206 if start else 200, sent, {**headers, "Content-Length": str(len(part))})

    def _page(self, status: int, text: str) -> None:
        self._send(status, text.encode(), {"Content-Type": "text/html; charset=utf-8"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        with contextlib.suppress(OSError):  # the client has had enough
            self.wfile.write(content)

    def log_message(self, *args) -> None:
        """Keep the test output clean."""

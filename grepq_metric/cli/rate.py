"""``grepq rate``: a page on this machine that shows photos one by one, and writes what you think of them into a sheet."""

from __future__ import annotations

import io
import json
import random
import re
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from grepq_metric.errors import InputError

if TYPE_CHECKING:
    from grepq_metric.heads.labels import RatingSheet

EPILOG = """\
**Examples**

`grepq fit --suggest 50 photos -o labels.csv` names the 50 photos to have rated first.

`grepq rate labels.csv` shows them in the browser; press 1 to 5.

`grepq fit labels.csv -o head.safetensors` learns from the ratings.
"""
PAGE = Path(__file__).parents[1] / "assets" / "pages" / "rate.html"
ADDRESS = "127.0.0.1"
_AS_THEY_ARE = {"JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""Formats that every browser shows, by Pillow's names; others are sent as JPEG."""
_QUALITY = 97  # of these JPEGs: what is rated is the photo, and not our copy of it
_LONGEST_BODY = 1000
_MOST_STEPS = 10  # a key each


def rate(
    labels: Path = typer.Argument(..., metavar="LABELS.csv", help="A sheet of photos, as `grepq fit --suggest` writes it."),
    scale: tuple[int, int] = typer.Option(
        (1, 5), metavar="WORST BEST", help="Scale of the ratings, whole numbers; the keys are its digits, 0 for 10."
    ),
    image_column: str = typer.Option("image", help="Column of photos; relative paths start at --root."),
    mos_column: str = typer.Option("mos", help="Column to fill in."),
    root: Path = typer.Option(None, help="Folder of the photos. Default: the folder of LABELS.csv."),
    seed: int = typer.Option(0, help="Of the order, which is random, so that neighbours do not bias; each rater another one."),
    port: int = typer.Option(0, min=0, max=65535, help="Of the page. Default: any that is free."),
    open: bool = typer.Option(True, "--open/--no-open", help="Open the browser."),
) -> None:
    """Rate photos in the browser, by key, and write a sheet that `grepq fit` takes.

    The page is served to this machine alone, at an address with a secret in it. Each rating is in the sheet at once, all else
    in the sheet stays, and a second run goes on where the first stopped. End with the page's button or with Ctrl-C.
    """
    worst, best = scale
    if not 0 <= worst < best <= 10 or best - worst >= _MOST_STEPS:
        raise InputError(
            f"--scale must be two rising whole numbers from 0 to 10, at most {_MOST_STEPS} steps, got {worst} {best}"
        )
    import grepq_metric.images  # noqa: F401  # before the page opens: it takes seconds, and the first photo needs it
    from grepq_metric.heads.labels import RatingSheet

    sheet = RatingSheet(labels, image_column, mos_column, root)
    server = RatingServer(sheet, scale, seed, port)
    rated = sum(map(bool, sheet.ratings))
    typer.echo(f"{len(sheet.photos)} photos, {rated} rated; end with Ctrl-C", err=True)
    typer.echo(server.url)
    typer.echo("(who has this address can see and rate the photos, on this machine)", err=True)
    if open:
        import webbrowser

        webbrowser.open(server.url)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        typer.echo("", err=True)
    finally:
        server.server_close()
    rated = sum(map(bool, sheet.ratings))
    typer.echo(f"{rated} of {len(sheet.photos)} photos are rated, in {labels}", err=True)
    if rated:
        columns = [("--image-column", image_column, "image"), ("--mos-column", mos_column, "mos"), ("--root", root, None)]
        options = "".join(f" {option} {value}" for option, value, default in columns if value != default)
        typer.echo(f"next: grepq fit {labels}{options} -o head.safetensors", err=True)


class RatingServer(ThreadingHTTPServer):
    """Serves the page, its photos by number, and takes ratings; to this machine alone, at an address with a secret in it.

    Args:
        sheet: to show and to fill in.
        scale: least and greatest rating.
        seed: of the order.
        port: 0: any that is free.

    Raises:
        OSError: the port is taken.

    Attributes:
        token: the secret.
        url: where the page is.
    """

    daemon_threads = True

    def __init__(self, sheet: RatingSheet, scale: tuple[int, int] = (1, 5), seed: int = 0, port: int = 0) -> None:
        super().__init__((ADDRESS, port), _Handler)
        self.sheet, self.scale = sheet, scale
        self.order = list(range(len(sheet.photos)))
        random.Random(seed).shuffle(self.order)
        self.token = secrets.token_urlsafe(24)
        self.hosts = {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")}
        self.url = f"http://{ADDRESS}:{self.server_port}/{self.token}/"
        self.decoding, self.writing = threading.Lock(), threading.Lock()

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        return {"order": self.order, "ratings": self.sheet.ratings, "scale": self.scale}

    def photo(self, index: int) -> tuple[str, bytes]:
        """A photo as browsers show it: its type and its bytes.

        Raises:
            InputError: it can't be read.
            FileNotFoundError: it is not there.
        """
        from grepq_metric.images import image_header, read_bytes

        path = self.sheet.photos[index]
        data = read_bytes(path)
        header = image_header(data, path)
        if header.format in _AS_THEY_ARE and not header.animated:
            return _AS_THEY_ARE[header.format], data
        with self.decoding:  # one at a time: a photo of 200 megapixels takes 3 GB
            return "image/jpeg", _as_jpeg(data, path)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone away in the middle of a photo is no error."""
        import sys

        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def _as_jpeg(data: bytes, path: Path) -> bytes:
    from PIL import Image

    from grepq_metric.images import decode_image

    pixels = (decode_image(data, path) * 255).round().byte().permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return stream.getvalue()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "grepq", ""
    timeout = 60

    @property
    def rating(self) -> RatingServer:
        return cast(RatingServer, self.server)

    def do_GET(self) -> None:
        place = self._place()
        if place is None:
            return
        if place == "":
            nonce = secrets.token_urlsafe(12)
            page = PAGE.read_text(encoding="utf-8").replace("{{nonce}}", nonce)
            self._answer(200, "text/html; charset=utf-8", page.encode(), nonce)
        elif place == "state":
            self._tell(200, self.rating.state())
        elif (found := re.fullmatch(r"photo/([0-9]{1,9})", place)) and int(found[1]) < len(self.rating.sheet.photos):
            try:
                kind, data = self.rating.photo(int(found[1]))
            except (InputError, OSError) as error:
                self._tell(422, {"error": str(error)})
                return
            self._answer(200, kind, data)
        else:
            self._tell(404, {"error": "there is no such page"})

    def do_POST(self) -> None:
        place = self._place()
        if place is None:
            return
        if not secrets.compare_digest(self.headers.get("X-Token", "").encode(), self.rating.token.encode()):
            self._refuse(403, "the secret is missing in the header X-Token")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _LONGEST_BODY:
            self._refuse(413, f"expected at most {_LONGEST_BODY} bytes")
            return
        body = self.rfile.read(int(length))
        if place == "rate":
            self._rate(body)
        elif place == "finish":
            self._tell(200, {})
            threading.Thread(target=self.rating.shutdown, daemon=True).start()
        else:
            self._tell(404, {"error": "there is no such page"})

    def _other(self) -> None:
        if self._place() is not None:
            self._refuse(405, "expected GET or POST")

    do_HEAD = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do_TRACE = do_CONNECT = _other  # noqa: N815

    def log_message(self, format: str, *arguments: Any) -> None:
        """No lines about requests."""

    def _rate(self, body: bytes) -> None:
        worst, best = self.rating.scale
        try:
            given = json.loads(body)
            photo, rating = given["photo"], given["rating"]
        except (ValueError, KeyError, TypeError):
            self._tell(400, {"error": "expected an object with a photo and a rating"})
            return
        if type(photo) is not int or not 0 <= photo < len(self.rating.sheet.photos):
            self._tell(400, {"error": f"there is no photo {photo!r:.20}"})
        elif rating is not None and (type(rating) is not int or not worst <= rating <= best):
            self._tell(400, {"error": f"expected a rating from {worst} to {best}, got {rating!r:.20}"})
        else:
            try:
                with self.rating.writing:
                    self.rating.sheet.rate(photo, rating)
            except (InputError, OSError) as error:
                self._tell(500, {"error": getattr(error, "strerror", None) or str(error)})
                return
            self._tell(200, {"ratings": self.rating.sheet.ratings})

    def _place(self) -> str | None:
        """What is asked for behind the secret; None: the request is refused, since it is not from our page on this machine.

        The address of the host is checked against names of other machines that lead here (DNS rebinding), the origin against
        pages of others in the same browser.
        """
        hosts = self.rating.hosts
        origin = self.headers.get("Origin")
        token, _, place = self.path.removeprefix("/").partition("/")
        if len(self.headers.get_all("Host", [])) != 1 or self.headers["Host"] not in hosts:
            self._refuse(403, "this page is for this machine alone")
        elif origin is not None and origin not in {f"http://{host}" for host in hosts}:
            self._refuse(403, "this page takes nothing from other pages")
        elif not secrets.compare_digest(token.encode(), self.rating.token.encode()):
            self._refuse(403, "the secret in the address is wrong: take the address that grepq rate prints")
        else:
            return place
        return None

    def _refuse(self, status: int, why: str) -> None:
        self.close_connection = True  # what follows may be the body that was not read
        self._tell(status, {"error": why})

    def _tell(self, status: int, content: dict[str, Any]) -> None:
        self._answer(status, "application/json", json.dumps(content).encode())

    def _answer(self, status: int, kind: str, content: bytes, nonce: str = "") -> None:
        own = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data:; connect-src 'self'; "
        own = own if nonce else ""
        policy = f"default-src 'none'; {own}base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": policy,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            **({"Connection": "close"} if self.close_connection else {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

"""One HTML file from a template, a style, a script and data: it fetches nothing, and no text of the data can break it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib import resources
from typing import Any

SHARED = "common"
"""Name of the style and the script that all pages begin with."""


def page(name: str, title: str, data: Any) -> str:
    """A page with everything in it.

    Its Content-Security-Policy lets the browser run this script and use this style alone, show pictures that lie beside the
    page or are in it, and connect to nothing.

    Args:
        name: of the template: ``gallery`` or ``compare``.
        title: of the page.
        data: what its script works with; strings may hold anything. There must be no NaN.

    Raises:
        ValueError: the data can't be written as JSON.
    """
    style, script = (_asset(f"{SHARED}.{kind}") + _asset(f"{name}.{kind}") for kind in ("css", "js"))
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; img-src 'self' file: data:; "
        "connect-src 'none'; form-action 'none'; base-uri 'none'"
    )
    parts = {"title": html.escape(title), "policy": policy, "style": style, "script": script, "data": embedded(data)}
    # In one pass: what is filled in may look like a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _asset(f"{name}.html"))


def embedded(data: Any) -> str:
    """Data as JSON in ASCII that can stand in a ``<script>``: it holds no ``<``, so that nothing in it ends the element.

    Examples:
        >>> from grepq_metric.pages.template import embedded
        >>> embedded(["</script>.jpg"])
        '["\\\\u003c/script>.jpg"]'
    """
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return resources.files("grepq_metric").joinpath("assets", "pages", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

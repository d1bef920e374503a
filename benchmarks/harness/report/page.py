"""The leaderboard as one HTML file: no server, no library and no request, so that it opens from a disk or a mail.

    from benchmarks.harness.report.page import render
    Path("leaderboard.html").write_text(render(data), encoding="utf-8")

Everything in the page is computed beforehand; it only shows, sorts, filters and draws. The view is in the URL's hash:
``#dataset=NAME&budget=few-labels-50&split=test&mode=NR&sort=plcc&order=asc&metric=NAME``; a budget is ``PROTOCOL-LABELS``.
"""

from __future__ import annotations

import json
from pathlib import Path

TEMPLATE = Path(__file__).with_name("page.html")
PLACE = "@@DATA@@"


def render(data: dict) -> str:
    """The page that shows ``data``: ``created``, ``command``, ``datasets``, ``rows`` and ``scatter``.

    Rows whose ``measured`` is not true are published ones, and stand in a table of their own. A value that is not finite is
    refused (ValueError): JSON has no word for it, and a missing value is None.
    """
    # All but ASCII is escaped, U+2028 and U+2029 too. "<" is escaped wherever it stands: "<!--" opens a comment in a script.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    before, after = TEMPLATE.read_text(encoding="utf-8").split(PLACE)
    return before + text + after

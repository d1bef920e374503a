"""What a hostile file or name looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FORMULA = "=HYPERLINK(1).jpg"
MARKUP = "<img src=x onerror=alert(1)>.jpg"
ENDING = "</script><script>alert(1)</script>.jpg"
TERMINAL = "\x1b]0;title\x07\x1b[31m.jpg"


class Payload:
    """Would write a file if it were unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.target), "w")

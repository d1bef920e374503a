"""The command line, run in this process: a fresh interpreter costs as much as most tests."""

import io
import os
import sys
from types import SimpleNamespace
from unittest.mock import patch

GREPQ = [sys.executable, "-c", "from grepq_metric.cli import main; main()"]
"""The same in a process of its own, for tests of pipes and signals."""


def grepq(*args, stdin="", status=0, cwd=None):
    """Run `grepq` as its entry point does, check its exit status, and give what it wrote: ``stdout`` and ``stderr``."""
    from grepq_metric.cli import main

    streams = {name: io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for name in ("stdin", "stdout", "stderr")}
    streams["stdin"].write(stdin)
    streams["stdin"].seek(0)
    before, code = os.getcwd(), 0
    with patch.multiple(sys, argv=["grepq", *map(str, args)], **streams):
        try:
            os.chdir(cwd or before)
            main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            os.chdir(before)
    written = {name: stream.buffer.getvalue().decode() for name, stream in streams.items()}
    assert code == status, written["stderr"]
    assert "Traceback" not in written["stderr"]
    return SimpleNamespace(**written)

"""Known vulnerabilities of what is installed, by pip-audit: skipped, in plain sight, where its service is not in reach.

Advisories about packages that have no fix yet are listed in IGNORED with the reason why they do not concern this package.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request

SERVICE = "https://pypi.org/pypi/pip/24.0/json"  # of one version, as pip-audit asks; a mirror may lack it
WAIT, LIMIT = 10, 300
"""Seconds for the service's first answer, and for all."""
IGNORED: dict[str, str] = {}
"""Advisories, and why they do not concern us."""


def reachable() -> bool:
    """Whether the service answers, and says something of vulnerabilities."""
    try:
        with urllib.request.urlopen(SERVICE, timeout=WAIT) as answer:
            return "vulnerabilities" in json.load(answer)
    except (OSError, ValueError) as error:
        print(f"SKIPPED: no audit of packages, since {SERVICE} is not in reach: {error}")
        return False


def main() -> int:
    """Run the audit; 1 where a package has a known vulnerability."""
    if not reachable():
        return 0
    ignored = [part for advisory in IGNORED for part in ("--ignore-vuln", advisory)]
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--timeout", str(WAIT), *ignored]
    try:
        return subprocess.run(command, timeout=LIMIT, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"SKIPPED: the audit of packages was not done in {LIMIT} seconds")
        return 0


if __name__ == "__main__":
    sys.exit(main())

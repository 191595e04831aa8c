# SPDX-License-Identifier: Apache-2.0
"""A page as headless Chromium has it after its scripts ran."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers.html_tables import Page

_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
]


def opened(path: Path, fragment: str, profile: Path) -> Page:
    """The page `path`#`fragment`; fails where its console has anything. profile: a new, empty folder."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here: apt-get install chromium")
    words = [browser, *_OPTIONS, f"--user-data-dir={profile}", "--virtual-time-budget=2000", "--dump-dom"]
    done = subprocess.run([*words, f"{path.as_uri()}#{fragment}"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.findall(r".*CONSOLE.*", done.stderr) == []
    return Page(done.stdout)

# SPDX-License-Identifier: Apache-2.0
"""The source distribution holds the whole repository and nothing else: kernels, assets, C++, tests and their data."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
SCRIPT = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"


def test_source_distribution_is_the_repository(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("this copy of the sources has no git")
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=REPOSITORY, check=True, capture_output=True)
    (archive,) = tmp_path.glob("lightwam-*.tar.gz")
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    assert not [member.name for member in members if not (member.isfile() or member.isdir())], "links in the archive"
    held = {member.name.partition("/")[2] for member in members if member.isfile()}
    tracked = {name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).exists()}
    assert tracked - held == set()
    assert not {name for name in held if name.endswith((".so", ".pyc")) or name.startswith((".git/", "build/"))}

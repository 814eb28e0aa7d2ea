"""Fixtures for the parts a test needs that not every machine has.

Where such a part is missing the test skips and says why; with GEOCLASS_REQUIRE_ALL=1 it fails instead, so that
a full run cannot pass by skipping.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def missing(reason: str) -> None:
    if os.environ.get("GEOCLASS_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason} (GEOCLASS_REQUIRE_ALL=1 forbids skipping)")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real imagery that GEOCLASS_TEST_DATA names."""
    named = os.environ.get("GEOCLASS_TEST_DATA")
    if not named:
        missing("GEOCLASS_TEST_DATA is unset: no real imagery to test on")
    folder = Path(str(named))
    if not folder.is_dir():
        missing(f"GEOCLASS_TEST_DATA names {folder}, which is no folder")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium to drive."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    missing("no Chromium on this machine: apt-get install chromium")
    raise AssertionError


@pytest.fixture(scope="session")
def qgis_python() -> str:
    """A Python that can import QGIS (Debian's own)."""
    python = "/usr/bin/python3"
    if not Path(python).exists() or subprocess.run([python, "-c", "import qgis.core"], capture_output=True).returncode:
        missing("no QGIS for Python on this machine: apt-get install python3-qgis qgis-providers")
    return python

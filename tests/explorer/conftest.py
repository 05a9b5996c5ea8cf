"""What the tests of the explorer share: a sweep whose numbers are known, a page of it, and a browser."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from known_sweeps import known_sweep

from imc_ssm import results

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture
def known() -> xr.Dataset:
    return known_sweep()


@pytest.fixture(scope="session")
def known_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("known") / "known.nc"
    results.save(known_sweep(), path)
    return path


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The Chromium of this machine; skips where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as play:
        try:
            started = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except sync.Error as error:
            pytest.skip(f"{found} does not start: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture(scope="session")
def address(browser: Any, known_file: Path) -> Iterator[str]:
    """Where `imc-ssm explore` serves the known sweep; Ctrl-C ends it without a word."""
    code = "from imc_ssm.cli import main; main()"
    words = [sys.executable, "-c", code, "explore", str(known_file), "--no-browser"]
    serving = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert serving.stdout is not None
    try:
        found = re.match(r"(http://127\.0\.0\.1:\d+/)", line := serving.stdout.readline())
        assert found, (line, serving.communicate(timeout=10))
        yield found[1]
    finally:
        serving.send_signal(signal.SIGINT)
        _, errors = serving.communicate(timeout=20)
    assert (serving.returncode, errors) == (0, "")

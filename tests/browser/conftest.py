"""A real browser, Debian's Chromium, and a real JupyterLab for it to see."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from facilities import require
from servers import Lab

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
).split()
WAIT_MILLISECONDS = 30_000
ARTEFACTS = os.environ.get("NBCONTAINER_SCREENSHOTS")
"""A directory for screenshots; without it, none are kept."""


@pytest.fixture(scope="session")
def browser_context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    require(os.geteuid() == 0, "the local engine needs root: sudo tests/run --lane browser")
    require(Path(CHROMIUM).exists(), "the browser tests need Chromium: apt install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    profile = tmp_path_factory.mktemp("profile")
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=CHROMIUM, headless=True, args=FLAGS, viewport={"width": 1000, "height": 1150}
        )
        context.set_default_timeout(WAIT_MILLISECONDS)
        yield context
        context.close()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    server = Lab(tmp_path_factory.mktemp("lab"))
    yield server
    server.close()


@pytest.fixture
def page(browser_context: Any) -> Iterator[Any]:
    page = browser_context.new_page()
    yield page
    page.close()


@pytest.fixture
def keep(page: Any) -> Callable[[str], None]:
    """``keep("name")`` keeps a screenshot, where NBCONTAINER_SCREENSHOTS says."""

    def take(name: str) -> None:
        if ARTEFACTS:
            Path(ARTEFACTS).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=f"{ARTEFACTS}/{name}.png")

    return take

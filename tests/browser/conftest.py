"""A real JupyterLab with a real kernel, in a headless Chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlkit.serving.control.flags import free_port

QUIET = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}}


class Lab:
    """A running JupyterLab, by its address and its root folder."""

    def __init__(self, url: str, root: Path) -> None:
        self.url = url
        self.root = root

    def write(self, name: str, cells: list[str]) -> None:
        """Put a notebook there."""
        notebook = {
            "cells": [
                {
                    "cell_type": "code",
                    "execution_count": None,
                    "id": f"cell-{i}",
                    "metadata": {},
                    "outputs": [],
                    "source": source,
                }
                for i, source in enumerate(cells)
            ],
            "metadata": {
                "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
            },
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        (self.root / name).write_text(json.dumps(notebook))

    def saved(self, name: str) -> dict[str, Any]:
        """The notebook as it is on disk."""
        found: dict[str, Any] = json.loads((self.root / name).read_text())
        return found

    def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """Its own REST interface."""
        request = urllib.request.Request(self.url + path, body, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            text = answer.read()
        return json.loads(text) if text else None


class Page:
    """A notebook as a person has it before them; its cells by name."""

    def __init__(self, page: Any, order: list[str]) -> None:
        self.page = page
        self.order = order
        self.until = _until

    def cell(self, name: str) -> Any:
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(self.order.index(name))

    def start(self, name: str) -> None:
        """Click into a cell and run it."""
        self.cell(name).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")

    def done(self, name: str) -> bool:
        """Whether a number stands beside the cell; a star while it runs."""
        prompt = self.cell(name).locator(".jp-InputPrompt").inner_text()
        return re.search(r"\d", prompt) is not None

    def connect(self) -> None:
        """Run a cell until it has its number: Lab says idle before its kernel takes requests, and
        forgets a cell that was begun in between."""
        for _ in range(20):
            self.start("connect")
            for _ in range(30):
                if self.done("connect"):
                    return
                self.page.wait_for_timeout(100)
        raise AssertionError("the kernel runs no cell")

    def run(self, name: str, timeout_s: float = 60) -> str:
        """Run a cell to its end; the text that it shows."""
        self.start(name)
        self.until(lambda: self.done(name), timeout_s)
        return self.text(name)

    def text(self, name: str) -> str:
        outputs = self.cell(name).locator(".jp-OutputArea-output")
        return "\n".join(outputs.all_inner_texts())

    def shows(self, name: str, pattern: str, timeout_s: float) -> None:
        """Wait until an output has that text; else fail with the text it has."""
        end = time.monotonic() + timeout_s
        while not re.search(pattern, text := self.text(name)):
            assert time.monotonic() < end, f"no {pattern!r} in:\n{text}"
            self.page.wait_for_timeout(100)

    def tile(self, label: str) -> float:
        """A figure of the dashboard that the cell "show" has."""
        tile = self.cell("show").locator(".tiles div", has_text=label).first
        found = re.search(r"[\d.,]+", tile.inner_text())
        return float(found.group().replace(",", "")) if found else 0.0

    def shot(self, path: Path) -> None:
        self.page.screenshot(path=str(path))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    root = Path(tempfile.mkdtemp(prefix="mlk-", dir="/tmp"))
    sessions = Path(tempfile.mkdtemp(prefix="mlk-", dir="/tmp"))  # a short path, as sockets need
    settings = root / "settings"
    settings.mkdir()
    (settings / "overrides.json").write_text(json.dumps(QUIET))
    port = free_port()
    environment = {
        **os.environ,
        "MLKIT_RUNTIME_DIR": str(sessions),
        "JUPYTER_CONFIG_DIR": str(root / "config"),
        "JUPYTER_RUNTIME_DIR": str(root / "jupyter"),
        "MLKIT_LEASE_S": "5",
    }
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1"),
            *(f"--port={port}", "--IdentityProvider.token=", "--allow-root"),
            "--ServerApp.disable_check_xsrf=True",
            *(f"--ServerApp.root_dir={root}", f"--LabApp.app_settings_dir={settings}"),
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    found = Lab(f"http://127.0.0.1:{port}", root)
    try:
        _until(lambda: _answers(found), 60)
        yield found
    finally:
        for kernel in found.ask("GET", "/api/kernels"):
            found.ask("DELETE", f"/api/kernels/{kernel['id']}")
        process.terminate()
        process.wait(20)
        _until(lambda: not list(sessions.glob("*/ready")), 60)  # the lease ends its session
        for folder in (root, sessions):
            shutil.rmtree(folder, ignore_errors=True)


def _answers(lab: Lab) -> bool:
    try:
        lab.ask("GET", "/api/status")
    except (OSError, urllib.error.URLError):
        return False
    return True


def _until(what: Callable[[], Any], timeout_s: float) -> Any:
    end = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def chromium(browser_path: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=browser_path,
            args=["--no-sandbox", "--disable-background-networking"],
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def open_notebook(lab: Lab, chromium: Any) -> Callable[[str, dict[str, str]], Page]:
    """Writes a notebook of these cells, by name, opens it and connects its kernel."""

    def opened(name: str, cells: dict[str, str]) -> Page:
        lab.write(name, ["1", *cells.values()])
        page = chromium.new_page(viewport={"width": 1280, "height": 1300})
        page.goto(f"{lab.url}/lab/tree/{name}?reset")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=60_000)
        made = Page(page, ["connect", *cells])
        made.connect()
        return made

    return opened


@pytest.fixture(scope="module")
def pictures(repository: Path) -> Path:
    """Where screenshots are kept."""
    folder = repository / "build" / "browser"
    folder.mkdir(parents=True, exist_ok=True)
    return folder

"""A real JupyterLab with a real kernel, in a headless Chromium."""

from __future__ import annotations

import json
import os
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

from mlkit.serving.flags import free_port

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
def until() -> Callable[..., Any]:
    return _until


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
def pictures(repository: Path) -> Path:
    """Where screenshots are kept."""
    folder = repository / "build" / "browser"
    folder.mkdir(parents=True, exist_ok=True)
    return folder

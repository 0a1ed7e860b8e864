"""What a step finds in a replica is what it finds in the notebook, on a real Ray Serve."""

import logging
import time

import pytest

pytestmark = [pytest.mark.serve, pytest.mark.timeout(240)]

RUNTIME = """
import asyncio, logging, os, sys

async def load():
    loop = asyncio.get_running_loop()
    yield loop
    with open({file!r}, "w") as file:
        file.write(str(loop is asyncio.get_running_loop()))

@step
async def look(name: str, *, loop: object = resource(load)) -> tuple[str | None, bool]:
    logging.getLogger("shop").debug("looked at %s", name)
    sys.stdout.buffer.write(b"bytes\\n")
    return os.environ.get(name), loop is asyncio.get_running_loop()

@pipeline
def looked(name: str) -> tuple[str | None, bool]:
    return look(name)
"""


def test_variables_levels_streams_and_resources_are_those_of_the_notebook(
    live, cell, tmp_path, monkeypatch
) -> None:
    closed = tmp_path / "closed"
    pipe = cell(RUNTIME.format(file=str(closed)))["looked"]
    monkeypatch.setenv("SHOP_MODE", "late")  # later than the session
    logging.getLogger("shop").setLevel(logging.DEBUG)
    try:
        app = live(pipe)
    finally:
        logging.getLogger("shop").setLevel(logging.NOTSET)
    assert app("SHOP_MODE") == ("late", True)
    lines = [line.text for line in app.logs("look")]
    assert "DEBUG shop: looked at SHOP_MODE" in lines
    assert "bytes" in lines
    app.shutdown()
    deadline = time.monotonic() + 30
    while not (closed.exists() and closed.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert closed.read_text() == "True"  # on its loop

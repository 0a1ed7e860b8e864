"""The Python of docs/overload.md runs, and its numbers are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlkit.execute.priority import HORIZON_S, Priority, places
from mlkit.fetch import hosts
from mlkit.serving import Limits, retries
from mlkit.serving.http import idempotency


@pytest.fixture
def page(repository: Path) -> str:
    return (repository / "docs" / "overload.md").read_text()


def test_the_page_runs_from_top_to_bottom(page: str) -> None:
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {"__name__": "__main__"}
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"<snippet {number}>", "exec", dont_inherit=True), names)
    assert len(snippets) == 4


def test_its_numbers_are_those_of_the_code(page: str) -> None:
    text = " ".join(page.split())
    assert HORIZON_S * len(Priority) == 20
    assert "come within twenty seconds of it" in text
    assert places(100, Priority.BULK) == 75
    assert f"`Limits.max_ongoing_requests`, {Limits().max_ongoing_requests} by default" in text
    assert (retries.MAX_RETRIES, retries.BUDGET, retries.BUDGET_SHARE) == (2, 50, 1 / 5)
    assert f"{retries.BACKOFF_S} and {2 * retries.BACKOFF_S} s apart" in text
    assert f"at most {hosts.MAX_PER_HOST} run at a time" in text
    assert f"not completed one for {hosts.STALLED_S:g} s" in text
    assert f"skipped for {hosts.OPEN_S:g} s" in text
    assert (idempotency.KEEP_S, idempotency.MAX_KEY) == (600, 255)
    assert f"up to {idempotency.MAX_BYTES >> 20} MiB of responses" in text
    assert f"responses of over {idempotency.MAX_REPLY_BYTES >> 20} MiB" in text
    assert (hosts.FAILURES, hosts.MAX_OPEN_S) == (5, 60)

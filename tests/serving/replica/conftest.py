"""Replicas in the process of the tests, whose heap is larger than theirs."""

import gc

import pytest


@pytest.fixture(autouse=True)
def _imports_stay_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that settles does not look through all that the tests have imported."""
    monkeypatch.setattr(gc, "unfreeze", lambda: None)

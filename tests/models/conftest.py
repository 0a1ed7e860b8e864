"""A store of models that a test has for itself."""

import pytest


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLKIT_MODELS_DIR", str(tmp_path / "store"))
    monkeypatch.setenv("MLKIT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "store"

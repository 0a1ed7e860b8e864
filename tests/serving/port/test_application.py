"""The Serve application of an exported pipeline, without Ray's processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest
from fastapi.testclient import TestClient

from mlkit.errors import DefinitionError, DeployError
from mlkit.serving.limits import Limits
from mlkit.serving.port.application import _application, application

MODULE = """
from pathlib import Path

from fastapi import Depends, FastAPI

from mlkit import pipeline, resource, step
from mlkit.serving import served


def load() -> int:
    return int(Path("rate.txt").read_text())


@step
def times(x: int, *, rate: int = resource(load, files=["rate.txt"])) -> int:
    return x * rate


@pipeline
def scaled(x: int) -> int:
    return times(x)


shop = FastAPI()


@shop.get("/double")
async def double(x: int, scaled=Depends(served(scaled))) -> int:
    return 2 * await scaled(x)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "scaled_export.py").write_text(MODULE)
    (tmp_path / "rate.txt").write_text("3")
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield str(tmp_path)
    sys.modules.pop("scaled_export", None)


def test_a_replica_runs_in_the_folder_and_asks_for_the_token(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLKIT_TOKEN", "secret")
    app = _application("scaled_export:scaled", folder, True, Limits())
    with TestClient(app, "http://127.0.0.1") as client:
        assert client.post("/scaled", json={"x": 2}).status_code == 401
        headers = {"Authorization": "Bearer secret"}
        assert client.post("/scaled", json={"x": 2}, headers=headers).json() == 6
        assert client.get("/readyz").json()["status"] == "ready"


@pytest.mark.parametrize("token", [None, ""])
def test_a_replica_does_not_start_without_a_token(
    folder: str, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.delenv("MLKIT_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("MLKIT_TOKEN", token)
    with pytest.raises(DeployError, match="no token"):
        _application("scaled_export:scaled", folder, True, Limits())


def test_a_gateway_may_authenticate_instead(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLKIT_TOKEN", "secret")
    with TestClient(_application("scaled_export:scaled", folder, False, Limits())) as client:
        assert client.post("/scaled", json={"x": 2}).json() == 6


def test_the_users_application_embeds_the_pipeline(folder: str) -> None:
    app = _application("scaled_export:scaled", folder, False, Limits(), "shop")
    with TestClient(app) as client:
        assert client.get("/double", params={"x": 2}).json() == 12
        assert client.post("/scaled", json={"x": 2}).json() == 6


def test_the_application_imports_nothing_of_the_user_and_has_no_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLKIT_TOKEN", "secret-of-replicas")
    bound = application("no_such_module:scaled", max_ongoing_requests=7)
    deployment = bound._bound_deployment
    assert (deployment.name, deployment.max_ongoing_requests) == ("scaled", 7)
    assert b"secret-of-replicas" not in cloudpickle.dumps(deployment.func_or_class)
    with pytest.raises(DefinitionError):
        application("no_such_module:scaled", max_ongoing_requests=0)

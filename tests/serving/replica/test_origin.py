"""What a replica takes over from the process of the notebook."""

import os
import pickle
import sys
from pathlib import Path

import pytest

from mlkit.define import classes
from mlkit.serving.bundle import Origin


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """The folder, search path, environment and entered modules are restored."""
    monkeypatch.setattr(classes, "_entered", classes._entered)
    monkeypatch.chdir(Path.cwd())
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(os, "environ", os.environ.copy())


INHERITED = {"HOME": "/home/me", "MODE": "old", "GONE": "1"}


@pytest.mark.parametrize(
    ("name", "value", "travels"),
    [
        ("HF_HOME", "/models", True),  # set
        ("MODE", "new", True),  # changed
        ("GONE", None, True),  # deleted
        ("HOME", "/home/me", False),  # as it was
        ("RAY_ADDRESS", "x", False),
        ("MLKIT_RUNTIME_DIR", "x", False),
        ("MLKIT_SESSION", "x", False),
        ("MLKIT_TOKEN", "x", False),
        ("MLKIT_MODELS_DIR", "/models", True),  # read by code in replicas
        ("MLKIT_CACHE_DIR", "/cache", True),
        ("MLKIT_DOWNLOAD_ALLOW", "10.0.0.0/8", True),
        ("MLKIT_THREADS", "2", True),
        ("PYTHONHASHSEED", "1", False),
        ("CUDA_VISIBLE_DEVICES", "0", False),  # assigned by Ray
        ("KMP_INIT_AT_FORK", "FALSE", False),  # as scikit-learn sets it, here and there
        ("KMP_INIT_AT_FORK", "TRUE", True),
        ("PWD", "/", False),
        ("JPY_PARENT_PID", "1", False),
    ],
)
def test_a_variable_travels_if_the_notebook_changed_it(monkeypatch, name, value, travels) -> None:
    here = {**INHERITED, name: value}
    monkeypatch.setattr(os, "environ", {n: v for n, v in here.items() if v is not None})
    expected = {name: value} if travels else {}
    assert Origin.here(inherited=INHERITED).variables == expected


def test_variables_are_set_and_deleted_before_code_is_loaded() -> None:
    os.environ["GONE"] = "1"
    Origin("/", (), variables={"GONE": None, "HF_HOME": "/models"}).enter()
    assert "GONE" not in os.environ
    assert os.environ["HF_HOME"] == "/models"


def test_values_of_variables_are_not_shown() -> None:
    origin = Origin("/", (), variables={"API_KEY": "secret-value"})
    assert "secret-value" not in repr(origin)
    assert pickle.loads(pickle.dumps(origin)) == origin


def test_a_process_that_changes_nothing_sends_nothing() -> None:
    assert Origin.here().variables == {}

"""Values in files come back as they were, and nothing else can be put in their place."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from mlkit.define.equality import same
from mlkit.errors import MlkitError
from mlkit.export import Artefacts
from mlkit.export import estimators as states
from mlkit.export.artefacts import format_of, write_values
from mlkit.models import HeadBank


def kept(folder: Path, value: Any) -> Any:
    assert write_values(folder, {"x": value}, {}) == {}
    return Artefacts(folder)["x"]


@pytest.mark.parametrize(
    ("value", "format_"),
    [
        (np.arange(6, dtype=np.int16).reshape(2, 3), "npy"),
        (np.array(1.5), "npy"),
        (np.zeros(2, [("a", "f4"), ("b", "i8")]), "npy"),
        (pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=["u", "v"]), "parquet"),
        (pd.DataFrame({0: [1, 2]}), "parquet"),
        (pd.DataFrame({"a": [{1: 2}, (3,)]}), "parquet"),  # kept in the exact form
        (pd.Series([1.0, np.nan], name="s"), "exact"),
        (torch.arange(3.0), "exact"),
        ({"a": [1, (2, {3})]}, "exact"),
        (b"bytes", "exact"),
        (object(), None),
        (lambda x: x, None),
    ],
)
def test_a_value_has_a_format_that_keeps_it(tmp_path: Path, value: Any, format_: str) -> None:
    assert format_of(value) == format_
    if format_ is None:
        assert list(write_values(tmp_path, {"x": value}, {})) == ["x"]
    else:
        assert same(kept(tmp_path, value), value)


def test_heads_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bank = HeadBank({"a": (rng.random((2, 4)), [0, 1]), "b": (rng.random((3, 4)), [1, 2, 3])})
    read = kept(tmp_path, bank)
    assert read.ids == bank.ids
    assert same(read.weight, bank.weight)
    assert same(read.bias, bank.bias)


def test_weights_are_those_of_a_module_that_the_code_builds(tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    write_values(tmp_path, {"net": net}, {})
    read = Artefacts(tmp_path).weights("net", lambda: nn.Linear(3, 2))
    assert same(read.weight.detach(), net.weight.detach())


def test_a_changed_file_is_not_read(tmp_path: Path) -> None:
    write_values(tmp_path, {"x": np.arange(3)}, {})
    np.save(tmp_path / "x.npy", np.arange(4))
    with pytest.raises(MlkitError, match="changed after the export"):
        Artefacts(tmp_path)["x"]


def test_an_unknown_name_is_a_key_error(tmp_path: Path) -> None:
    write_values(tmp_path, {"means": np.arange(3)}, {})
    with pytest.raises(KeyError, match="means"):
        Artefacts(tmp_path)["mean"]


ROWS = np.random.default_rng(0).normal(size=(60, 3))
LABELS = np.where(ROWS[:, 0] > 0, "yes", "no")
TEXTS = ["red shoe", "blue shoe", "red hat"] * 20
FRAME = pd.DataFrame({"n": ROWS[:, 0], "kind": np.where(ROWS[:, 1] > 0, "a", "b")})


@pytest.mark.parametrize(
    ("estimator", "inputs"),
    [
        (LogisticRegression(), ROWS),
        (SGDClassifier(random_state=0), ROWS),
        (GaussianNB(), ROWS),
        (DecisionTreeClassifier(), ROWS),
        (RandomForestClassifier(3, random_state=np.random.RandomState(0)), ROWS),
        (GradientBoostingClassifier(n_estimators=3), ROWS),
        (HistGradientBoostingClassifier(max_iter=3), ROWS),
        (VotingClassifier([("a", GaussianNB()), ("b", LogisticRegression())]), ROWS),
        (MLPClassifier([4], max_iter=5), ROWS),
        (SVC(probability=False), ROWS),
        (KNeighborsClassifier(algorithm="brute"), ROWS),
        (IsolationForest(n_estimators=3), ROWS),
        (KMeans(2, n_init=1), ROWS),
        (make_pipeline(StandardScaler(), PCA(2), LogisticRegression()), ROWS),
        (make_pipeline(FunctionTransformer(np.exp), LogisticRegression()), ROWS),
        (
            make_pipeline(
                make_column_transformer((OneHotEncoder(), ["kind"]), remainder="passthrough"),
                LogisticRegression(),
            ),
            FRAME,
        ),
        (
            make_pipeline(TfidfVectorizer(), LogisticRegression()),
            ["red shoe", "blue shoe", "red hat"] * 20,
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_estimator_predicts_the_same(estimator: Any, inputs: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(inputs, LABELS)
    read = states.loads(states.dumps(estimator))
    assert type(read) is type(estimator)
    assert same(read.predict(inputs), estimator.predict(inputs))
    if hasattr(estimator, "predict_proba"):
        assert same(read.predict_proba(inputs), estimator.predict_proba(inputs))
    assert read.get_params().keys() == estimator.get_params().keys()


def square(x: Any) -> Any:
    return x**2


@pytest.mark.parametrize(
    ("estimator", "place"),
    [
        (FunctionTransformer(square), "func"),
        (make_pipeline(FunctionTransformer(open)), r"steps\[0\]\[1\].func"),
        (LogisticRegression(C=object()), r"\.C"),
    ],
)
def test_what_is_not_of_scikit_learn_is_named(estimator: Any, place: str) -> None:
    with pytest.raises(states.NoState, match=place):
        states.dumps(estimator)


@pytest.mark.parametrize(
    "tree",
    [
        {"~": "name", "v": "os:system"},
        {"~": "name", "v": "builtins:eval"},
        {"~": "name", "v": "numpy:os.system"},
        {"~": "name", "v": "sklearn.base:warnings.warn"},
        {"~": "made", "c": "subprocess:Popen", "v": [["ls"]], "state": None},
        {"~": "made", "c": "numpy:load", "v": ["x"], "state": None},
        {"~": "state", "c": "types:SimpleNamespace", "v": {"~": "dict", "v": []}},
        {"~": "other", "v": 1},
    ],
)
def test_nothing_else_is_imported_or_called(tree: Any) -> None:
    import io

    buffer = io.BytesIO()
    np.savez(buffer, __tree__=np.frombuffer(json.dumps(tree).encode(), np.uint8))
    with pytest.raises(MlkitError, match="not the state of an estimator"):
        states.loads(buffer.getvalue())

"""Where two results differ."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel

from mlkit.serving.replica.shadow import differences


@dataclasses.dataclass
class Box:
    x0: float
    kind: str


class Label(BaseModel):
    name: str
    box: Box


NAN = math.nan
AGREE = [
    (1.0, 1.0001),
    (0.0, 1e-9),
    (NAN, NAN),
    ("a", "a"),
    ([Label(name="a", box=Box(1, "x"))], [Label(name="a", box=Box(1.0001, "x"))]),
    (np.array([1.0, NAN]), np.array([1.0001, NAN])),
    (np.array(["a"]), np.array(["a"])),
    (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]})),
    (None, None),
]
DIFFER = [
    (1.0, 1.1, {"result"}),
    (1.0, NAN, {"result"}),
    ("a", "b", {"result"}),
    ([1, 2], [1], {"result"}),
    ({"a": 1, "b": {"c": 2}}, {"a": 2, "b": {"c": 3}}, {"['a']", "['b']['c']"}),
    (
        [Label(name="a", box=Box(1, "x"))],
        [Label(name="b", box=Box(1, "y"))],
        {"[0].name", "[0].box.kind"},
    ),
    (Box(1, "x"), Box(2, "x"), {"x0"}),
    (np.zeros(2), np.zeros(3), {"result"}),
    (np.zeros(2), np.ones(2), {"result"}),
    (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]}), {"result"}),
    (1, "1", {"result"}),
    (None, 0, {"result"}),
]


@pytest.mark.parametrize(("old", "new"), AGREE)
def test_results_within_the_tolerance_agree(old, new) -> None:
    assert differences(old, new) == set()


@pytest.mark.parametrize(("old", "new", "paths"), DIFFER)
def test_it_is_told_where_results_differ(old, new, paths) -> None:
    assert differences(old, new) == paths

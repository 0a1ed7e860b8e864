"""Constraints and validators of types that have a form of their own."""

from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
from pydantic import AfterValidator, Base64Bytes, Field

from mlkit import pipeline, step
from mlkit.define.arguments import Arguments
from mlkit.define.border import port
from mlkit.errors import InputError

Short = Annotated[bytes, Field(max_length=2, description="a mark", examples=["data:,ab"])]
Positive = Annotated[np.ndarray, AfterValidator(abs)]


@pytest.mark.parametrize("way", ["local", "from_bytes", "from_json"])
def test_bytes_that_are_too_long_are_refused_on_every_way(way: str) -> None:
    convert = getattr(port(Short), way)
    short, long = (b"ab", b"abc") if way != "from_json" else ("data:,ab", "data:,abc")
    assert convert(short) == b"ab"
    with pytest.raises(InputError, match="at most 2"):
        convert(long)


def test_a_validator_of_an_array_runs_on_every_way(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([-1, 2]))
    target = port(Positive)
    assert target.from_bytes is not None
    for array in (
        target.local(np.array([-1, 2])),
        target.from_json([-1, 2]),
        target.from_bytes((tmp_path / "a.npy").read_bytes()),
    ):
        assert array.tolist() == [1, 2]


def test_the_document_has_the_description_but_not_the_length_of_the_json_form() -> None:
    @step
    def size(mark: bytes) -> int:
        return len(mark)

    @pipeline
    def measure(mark: Short) -> int:
        return size(mark)

    field = Arguments(measure.graph).schema.input["properties"]["mark"]
    assert field["description"] == "a mark"
    assert field["examples"] == ["data:,ab"]
    assert "maxLength" not in field


def test_an_encoder_gives_bytes_another_json_form() -> None:
    target = port(Base64Bytes)
    assert not target.upload
    assert target.from_json("YWI=") == b"ab"
    assert target.to_text(b"ab") == b'"YWI="'


def test_null_among_numbers_is_nan() -> None:
    array = port(np.ndarray).from_json([[1, None], [2.5, 3]])
    assert array.dtype == float
    assert np.isnan(array[0, 1])


@pytest.mark.parametrize("value", [None, [True, None], ["a", None]])
def test_null_elsewhere_is_no_number(value: object) -> None:
    with pytest.raises(InputError, match="not an array of numbers"):
        port(np.ndarray).from_json(value)

"""A form from the types of a pipeline."""

from datetime import date
from enum import Enum
from typing import Annotated, Literal

import numpy as np
import pytest
from pydantic import BaseModel, Field

from mlkit import Image, ImageSource, pipeline, step
from mlkit.define.arguments import Arguments
from mlkit.serving.http.form import fields_of, outline


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


class Part(BaseModel):
    name: str
    weights: list[float] = []
    inner: "Part | None" = None


def form(annotation, default=..., doc=None):
    """The form of a pipeline with one parameter."""

    @step
    def take(x: annotation) -> int:
        return 1

    if default is ...:

        @pipeline
        def taken(x: annotation) -> int:
            return take(x)
    else:

        @pipeline
        def taken(x: annotation = default) -> int:
            return take(x)

    taken.fn.__doc__ = doc
    (field,) = fields_of(Arguments(taken.graph))
    return field


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        (str, "text"),
        (int, "number"),
        (float, "number"),
        (float | None, "number"),
        (bool, "check"),
        (Size, "choice"),
        (Literal["a", 1], "choice"),
        (date, "date"),
        (Image, "file"),
        (ImageSource, "file"),
        (bytes, "file"),
        (list[Image], "file"),
        (Part, "json"),
        (list[float], "json"),
        (dict[str, int], "json"),
        (np.ndarray, "json"),
        (int | str, "json"),
    ],
)
def test_each_type_has_its_control(annotation, kind) -> None:
    field = form(annotation)
    assert (field.kind, field.required) == (kind, True)


def test_a_number_has_its_bounds() -> None:
    field = form(Annotated[int, Field(ge=1, le=9)], 3)
    assert (field.minimum, field.maximum, field.whole, field.initial) == ("1", "9", True, "3")
    assert field.hint == "1 to 9"
    assert form(Annotated[float, Field(gt=0)]).hint == "above 0"
    assert form(Annotated[float, Field(gt=0, le=1)]).hint == "above 0, at most 1"
    assert form(float).hint == ""


def test_choices_are_json_and_labelled() -> None:
    assert form(Size).choices == (("s", '"s"'), ("l", '"l"'))
    assert form(Literal["a", 1]).choices == (("a", '"a"'), ("1", "1"))
    assert form(Size | None, None).choices[0] == ("", "")
    assert form(Size, Size.LARGE).initial == '"l"'
    assert form(bool | None, None).choices == (("", ""), ("true", "true"), ("false", "false"))


def test_files_say_what_they_are() -> None:
    one, many = form(Image), form(list[Image])
    assert (one.accept, one.many, one.url, one.medium) == ("image/*", False, True, "picture")
    assert (many.many, many.url) == (True, False)
    assert form(bytes).medium == "file"
    assert form(np.ndarray).accept == "application/x-npy"


def test_the_docstring_describes_without_the_json_form() -> None:
    doc = "Take it.\n\nArgs:\n    x: what the shop shows"
    for annotation in (str, Image, ImageSource, bytes, np.ndarray):
        assert form(annotation, doc=doc).description in (
            "What the shop shows.",
            "What the shop shows",
        )
    assert form(Image).description == ""


def test_a_model_is_outlined_with_an_example() -> None:
    field = form(Part)
    assert field.hint.startswith("{name: string, weights?: [number, …], inner?: ")
    assert field.example == '{"name": "text"}'
    optional = form(Part | None, None)
    assert (optional.required, optional.initial, optional.example) == (
        False,
        "",
        '{"name": "text"}',
    )


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer"}, "integer"),
        ({"type": "string", "format": "date-time"}, "date-time"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "integer | null"),
        ({"enum": ["a", 1]}, '"a" | 1'),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {}]}, "[integer, any]"),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "{…: number}"),
    ],
)
def test_outlines(schema, text) -> None:
    assert outline(schema, {}) == text

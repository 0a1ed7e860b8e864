"""What keeps a pipeline from being deployed is listed; it runs here all the same."""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import pytest
from fastapi import Body, Query
from IPython.core.autocall import ExitAutocall
from pydantic import AliasChoices, AliasPath, Field
from typing_extensions import TypeAliasType

from mlkit.define import ImageSource, batched_step, step
from mlkit.errors import StepError
from mlkit.media.image import Image
from mlkit.pipelines import Pipeline, pipeline

Cell = Callable[..., dict[str, Any]]


@step
def decode(data: bytes) -> Image:
    return Image(np.zeros((1, 1, 3), np.uint8), 1, 1)


@step
def size(picture: Image) -> int:
    return picture.width


@step
def maybe(data: bytes) -> Image | None:
    return None


@step
def halves(x: int) -> tuple[int, str]:
    return x, str(x)


@step
def double(x: int) -> int:
    return 2 * x


@step
def total(xs: list[int]) -> int:
    return sum(xs)


@step
def kinds(kind: Literal["a", "b"]) -> int:
    return 1


def only(tag: Pipeline[..., Any]) -> Any:
    """The one problem of a pipeline."""
    (problem,) = tag.problems
    return problem


def test_a_sound_pipeline_has_none() -> None:
    @pipeline
    def tag(image: bytes, by: int = 1) -> int:
        return total([size(decode(image)), double(by), 3])

    assert tag.problems == ()


def test_a_type_that_does_not_fit_names_both_ends() -> None:
    @pipeline
    def tag(image: bytes) -> int:
        return size(image)  # type: ignore[arg-type]

    problem = only(tag)
    assert (problem.where, problem.node, problem.parameter) == ("step 'size'", "size", "picture")
    assert problem.what == "'picture' gets the argument 'image', whose type does not fit"
    assert (problem.expected, problem.got) == ("Image", "bytes")
    assert "converts bytes to Image" in problem.fix


def test_it_runs_here_all_the_same() -> None:
    @pipeline
    def tag(x: float) -> int:
        return double(x)  # type: ignore[arg-type]

    assert len(tag.problems) == 1
    with pytest.raises(StepError, match="does not match its annotation"):
        tag(0.25)  # it runs, and the step's own result does not fit


def test_none_has_to_be_taken_where_it_may_come() -> None:
    @pipeline
    def tag(image: bytes) -> int:
        return size(maybe(image))  # type: ignore[arg-type]

    assert only(tag).got == "Image | None"


def test_a_part_of_a_result_has_a_type_of_its_own() -> None:
    @pipeline
    def tag(x: int) -> int:
        number, text = halves(x)
        return total([double(number), double(text)])  # type: ignore[arg-type]

    problem = only(tag)
    assert problem.node == "double_2"
    assert "the result of 'halves[1]'" in problem.what
    assert (problem.expected, problem.got) == ("int", "str")


def test_a_literal_has_to_fit_too() -> None:
    @pipeline
    def tag(x: int) -> int:
        return total([double(x), double("2")])  # type: ignore[arg-type]

    assert "the constant '2'" in only(tag).what


def test_a_literal_of_a_literal_type_fits() -> None:
    @pipeline
    def tag() -> int:
        return kinds("a")

    @pipeline
    def wrong() -> int:
        return kinds("c")  # type: ignore[arg-type]

    assert tag.problems == ()
    assert only(wrong).expected == "Literal['a', 'b']"


def test_a_collection_fits_by_what_is_in_it() -> None:
    @pipeline
    def tag(image: bytes) -> int:
        return total([double(1), decode(image)])  # type: ignore[list-item]

    problem = only(tag)
    assert problem.got == "list[int | Image]"
    assert "the list [double, decode]" in problem.what


def test_what_is_returned_has_to_fit_its_annotation() -> None:
    @pipeline
    def tag(x: int) -> str:
        return double(x)  # type: ignore[return-value]

    problem = only(tag)
    assert (problem.where, problem.expected, problem.got) == ("pipeline 'tag'", "str", "int")


def test_every_missing_annotation_is_named(cell: Cell) -> None:
    tag = cell("""
        from mlkit import pipeline, step
        @step
        def f(a, b: int): return a
        @pipeline
        def tag(x): return f(x, 1)
    """)["tag"]
    said = [f"{p.where}: {p.what}" for p in tag.problems]
    assert said == [
        "pipeline 'tag': 'x' has no type annotation",
        "pipeline 'tag': what it returns has no type annotation",
        "step 'f': 'a' has no type annotation",
        "step 'f': what it returns has no type annotation",
    ]


def test_a_step_that_is_called_twice_is_complained_of_once(cell: Cell) -> None:
    tag = cell("""
        from mlkit import pipeline, step
        @step
        def f(a) -> int: return a
        @pipeline
        def tag(x: int) -> int: return f(f(x))
    """)["tag"]
    assert len(tag.problems) == 1


def test_an_annotation_that_names_nothing_is_a_problem_of_the_step(cell: Cell) -> None:
    tag = cell("""
        from mlkit import pipeline, step
        @step
        def f(a: "Nowhere") -> "Nowhere": return a
        @pipeline
        def tag(x: int) -> int: return f(x)
    """)["tag"]
    assert only(tag).what == "its annotations cannot be read: name 'Nowhere' is not defined"
    assert tag(1) == 1


def test_a_batched_step_takes_and_returns_sequences() -> None:
    @batched_step
    def wrong(xs: int) -> dict[str, int]:
        return {}

    @pipeline
    def tag(x: int) -> int:
        return wrong(x)

    whats = [problem.what for problem in tag.problems]
    assert whats == [
        "'xs' of a batched step is a sequence with one entry per item",
        "what it returns of a batched step is a sequence with one entry per item",
    ]


def test_edges_of_a_batched_step_are_checked_per_item() -> None:
    @batched_step
    def many(xs: list[int]) -> list[str]:
        return []

    @pipeline
    def tag(x: str) -> int:
        return double(many(x))  # type: ignore[arg-type]

    assert [(p.expected, p.got) for p in tag.problems] == [("int", "str"), ("int", "str")]


def test_two_functions_of_one_name_are_told_apart(cell: Cell) -> None:
    source = "from mlkit import step\n@step\ndef f(x: int) -> int: return x + {n}"
    one, two = (cell(source.format(n=n))["f"] for n in (1, 2))

    @pipeline
    def tag(x: int) -> int:
        return two(one(x))

    problem = only(tag)
    assert problem.node == "f_2"
    assert "two different functions of this pipeline are named 'f'" in problem.what


def test_a_result_that_reaches_nothing_is_a_dead_end_with_all_before_it() -> None:
    @pipeline
    def tag(x: int) -> int:
        double(double(x))
        return total([x])

    assert {p.node for p in tag.problems} == {"double", "double_2"}
    assert all("does not depend on it" in p.what for p in tag.problems)


def test_what_cannot_cross_the_border_is_named() -> None:
    class Odd:
        pass

    @step
    def take(x: Odd) -> Odd:
        return x

    @pipeline
    def tag(x: Odd) -> Odd:
        return take(x)

    assert [(p.where, p.got) for p in tag.problems] == [("pipeline 'tag'", "Odd")] * 2
    assert all("codec(Odd, encode=..., decode=...)" in str(p.fix) for p in tag.problems)


def test_inside_a_pipeline_any_type_may_go() -> None:
    class Odd:
        pass

    @step
    def make(x: int) -> Odd:
        return Odd()

    @step
    def use(odd: Odd) -> int:
        return 1

    @pipeline
    def tag(x: int) -> int:
        return use(make(x))

    assert tag.problems == ()


def test_all_problems_are_listed_at_once() -> None:
    @pipeline
    def tag(image: ImageSource) -> str:
        double(1)
        return size(image)  # type: ignore[arg-type, return-value]

    assert [p.where for p in tag.problems] == ["step 'size'", "pipeline 'tag'", "step 'double'"]


def test_a_problem_is_one_line_of_text() -> None:
    @pipeline
    def tag(x: str) -> int:
        return double(x)  # type: ignore[arg-type]

    text = str(only(tag))
    assert text.startswith("step 'double': 'x' gets the argument 'x'")
    assert "(expected int, got str) → " in text
    assert "\n" not in text


@pytest.mark.parametrize("kind", [int, str, float, list[int], dict[str, float], bytes, Image])
def test_common_types_cross_the_border(kind: Any) -> None:
    def fn(x: Any) -> Any:
        return x

    fn.__annotations__ = {"x": kind, "return": kind}
    same = step(fn)

    def tag(x: Any) -> Any:
        return same(x)

    tag.__annotations__ = {"x": kind, "return": kind}
    assert pipeline(tag).problems == ()


class Pickled:
    """A class of a library, which has a JSON form by annotation."""

    def __reduce__(self) -> Any:
        return Pickled, ()


Declared = Annotated[
    Pickled,
    pydantic.PlainValidator(lambda value: Pickled()),
    pydantic.PlainSerializer(lambda value: 1, return_type=int),
    pydantic.WithJsonSchema({"type": "integer"}),
]


class Carrier(pydantic.BaseModel):
    content: list[Declared]


@pytest.mark.parametrize("type_", [Declared, list[Declared], dict[str, Declared | None], Carrier])
def test_a_class_that_restores_itself_needs_a_codec(type_: Any) -> None:
    def fn(x: Any) -> Any:
        return x

    fn.__annotations__ = {"x": type_, "return": int}
    same = step(fn)

    def tag(x: Any) -> Any:
        return same(x)

    tag.__annotations__ = fn.__annotations__
    problem = only(pipeline(tag))
    assert "the argument 'x': values of type Pickled cannot be restored" in problem.what
    assert problem.fix == "declare a codec for it: codec(Pickled, encode=..., decode=...)"


@pytest.mark.parametrize(
    ("source", "what", "fix"),
    [
        ("return input('?')", "uses input(), which waits for someone", "take it as a parameter"),
        ("breakpoint()", "uses breakpoint(), which waits", "remove it"),
        ("quit()", "uses quit(), which ends a console", "raise an exception"),
        ("return get_ipython().getoutput('ls')", "uses IPython (a %magic", "subprocess.run"),
    ],
)
@pytest.mark.parametrize("helper", ["", "def helper(x):\n    {source}\n"])
def test_what_works_in_a_cell_only_is_a_problem(
    cell: Cell, source: str, what: str, fix: str, helper: str
) -> None:
    def get_ipython() -> None: ...

    get_ipython.__module__ = "IPython.core.interactiveshell"
    names = cell(
        "from mlkit import *\n"
        + helper.format(source=source)
        + f"@step\ndef look(x: str) -> object:\n    {'return helper(x)' if helper else source}\n"
        "@pipeline\ndef pipe(x: str) -> object:\n    return look(x)\n",
        get_ipython=get_ipython,
        quit=ExitAutocall(),
    )
    problem = only(names["pipe"])
    assert what in problem.what
    assert problem.what.startswith("helper uses" if helper else "it uses")
    assert fix in str(problem.fix)


@pytest.mark.parametrize(
    "source",
    [
        "return ask(x)",
        "input = str.upper\n    return input(x)",
    ],
)
def test_what_is_prepared_for_a_replica_is_none(cell: Cell, source: str) -> None:
    names = cell(
        "from mlkit import *\n"
        "def input(x):\n    return x\ndef ask(x):\n    return input(x)\n"
        f"@step\ndef look(x: str) -> object:\n    {source}\n"
        "@pipeline\ndef pipe(x: str) -> object:\n    return look(x)\n"
    )
    assert names["pipe"].problems == ()


def test_a_step_that_asks_whether_it_runs_in_ipython_is_none() -> None:
    @step
    def look(x: str) -> bool:
        try:
            get_ipython()  # type: ignore[name-defined]
        except NameError:
            return False
        return True

    @pipeline
    def pipe(x: str) -> bool:
        return look(x)

    assert pipe.problems == ()


SOURCE = "class Shop:\n    def price(self):\n        return 1\n\ndef name():\n    return 'a'\n"


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        (lambda source: source, None),
        (lambda source: f"# moved\n\n{source}\n\ndef other():\n    return 1\n", None),
        (lambda source: source.partition("def name")[0], None),
        (lambda source: source.replace("'a'", "'b'"), "name"),
        (lambda source: source.replace("return 1", "return 2"), "Shop.price"),
    ],
    ids=["same", "moved", "removed", "edited", "edited method"],
)
def test_a_late_module_that_is_not_as_in_its_file_is_a_problem(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, stale: str | None
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "edited_shop", raising=False)
    file = tmp_path / "edited_shop.py"
    file.write_text(SOURCE)
    names = cell(
        "from mlkit import *\nimport edited_shop\n"
        "@step\ndef look(x: str) -> str:\n    import edited_shop\n    return edited_shop.name()\n"
        "@pipeline\ndef pipe(x: str) -> str:\n    return look(x)\n"
    )
    assert names["pipe"].problems == ()
    file.write_text(change(SOURCE))
    if stale is None:
        assert names["pipe"].problems == ()
    else:
        problem = only(names["pipe"])
        assert f"imports 'edited_shop' when it runs, whose {stale!r} in this" in problem.what
        assert str(file) in problem.what
        assert "importlib.reload(edited_shop)" in str(problem.fix)
    names["edited_shop"].name = cell("def name():\n    return 'patched'")["name"]
    if "def name" in file.read_text() and stale is None:
        assert "whose 'name' in this notebook" in only(names["pipe"]).what


NUMBERS = itertools.count()


@pytest.mark.parametrize("changing", [next, lambda n: [str(next(n))], lambda n: {"a": (next(n),)}])
def test_a_constant_that_each_trace_computes_anew_is_a_problem(changing: Any) -> None:
    @step
    def look(x: int, value: Any) -> int:
        return x

    @pipeline
    def pipe(x: int) -> int:
        return look(x, changing(NUMBERS))

    problem = only(pipe)
    assert problem.what.startswith("'value' gets a value that the pipeline's body computes anew")
    assert problem.fix == "compute it in a step"


@pytest.mark.parametrize("value", [1.5, float("nan"), object(), {"a": [1]}, np.zeros(2)])
def test_other_constants_are_none(value: Any) -> None:
    @step
    def look(x: int, value: Any) -> int:
        return x

    @pipeline
    def pipe(x: int) -> int:
        return look(x, value)

    assert pipe.problems == ()


@step
def size_of(a: int, b: int = 0) -> int:
    return a + b


TWO = "two parameters are named 'b' in requests"
SEVERAL = "the argument 'a' has several names in requests"
IGNORED = "the argument 'a' has a default in its annotation, which Python ignores"
Three = TypeAliasType("Three", Annotated[int, Field(default=3)])


@pytest.mark.parametrize(
    ("type_", "what", "fix"),
    [
        (Annotated[int, Field(alias="b")], TWO, "change an alias"),
        (Annotated[int, Query(alias="b")], TWO, "change an alias"),
        (
            Annotated[int, Field(validation_alias=AliasChoices("x", "y"))],
            SEVERAL,
            "give it one: Field(alias=...)",
        ),
        (
            Annotated[int, Field(validation_alias=AliasPath("x", 0))],
            SEVERAL,
            "give it one: Field(alias=...)",
        ),
        (Annotated[int, Field(default=3)], IGNORED, "write it after the annotation: a: int = 3"),
        (Three, IGNORED, "write it after the annotation: a: int = 3"),
    ],
    ids=["alias", "Query", "choices", "path", "default", "named type"],
)
def test_what_requests_would_call_or_default_otherwise_is_a_problem(
    type_: Any, what: str, fix: str
) -> None:
    @pipeline
    def pipe(a: type_, b: int = 0) -> int:
        return size_of(a, b)

    problem = only(pipe)
    assert (problem.what, problem.fix) == (what, fix)


@pytest.mark.parametrize(
    ("default", "fix"),
    [
        (Field(3, ge=0), "a: Annotated[int, Field(...)] = 3"),
        (Query(3), "a: Annotated[int, Query(...)] = 3"),
        (Body(ge=0), "a: Annotated[int, Body(...)]"),
    ],
    ids=["Field", "Query", "Body"],
)
def test_a_field_is_no_default(default: Any, fix: str) -> None:
    @step
    def take(x: int, a: int = default) -> int:
        return x

    @pipeline
    def one(a: int = default) -> int:
        return size_of(a)

    @pipeline
    def other(x: int) -> int:
        return take(x)

    assert [only(p).where for p in (one, other)] == ["pipeline 'one'", "step 'take'"]
    for problem in (only(one), only(other)):
        assert problem.what.startswith("the default of 'a' is a ")
        assert str(problem.fix) == f"move it into the annotation: {fix}"

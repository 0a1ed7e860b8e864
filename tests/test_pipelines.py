"""What a pipeline is made of, what it refuses, how its steps are replaced."""

import inspect
import json
from typing import Any

import pytest

from mlkit.define import batched_step, branch, each, step
from mlkit.errors import DefinitionError, InputError, LoadError, PlaceholderError, SessionError
from mlkit.load import constant, load_test
from mlkit.pipelines import pipeline
from mlkit.plan import plan, profile
from mlkit.serving import asgi, attach, deploy, served
from mlkit.views import Dashboard


@step
def double(x: int) -> int:
    return 2 * x


@step
def triple(x: int) -> int:
    return 3 * x


@batched_step
def many(xs: list[int]) -> list[int]:
    return [10 * x for x in xs]


@pipeline
def tag(x: int, title: str = "") -> int:
    """Doubles twice."""
    return double(double(x))


def test_it_keeps_name_signature_and_words() -> None:
    assert tag.name == tag.__name__ == "tag"
    assert tag.__doc__ == "Doubles twice."
    assert str(inspect.signature(tag)) == "(x: int, title: str = '') -> int"
    assert repr(tag) == "<pipeline tag(x: int, title: str = '') -> int>"


def test_calling_it_runs_it() -> None:
    assert tag(3) == 12
    assert tag(x=3, title="shoe") == 12


async def an_async_one(x: int) -> int:
    return x


def a_generator(x: int) -> Any:
    yield x


def with_stars(*xs: int) -> int:
    return 0


def positional_only(x: int, /) -> int:
    return 0


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (an_async_one, "plain function"),
        (a_generator, "does not yield"),
        (with_stars, "named parameters"),
        (positional_only, "named parameters"),
        (len, "is a function"),
        (int, "is a function"),
        (double, "plain function"),
        (tag, "plain function"),
    ],
)
def test_what_cannot_be_traced_is_refused_at_once(fn: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        pipeline(fn)


def test_arguments_that_do_not_fit_are_an_input_error_with_the_signature() -> None:
    with pytest.raises(InputError, match="missing a required argument: 'x'") as caught:
        tag()  # type: ignore[call-arg]
    assert "tag(x: int" in str(caught.value)


def test_an_unknown_argument_is_named_though_another_is_missing() -> None:
    with pytest.raises(InputError, match="unexpected argument 'y'"):
        tag(y=1)  # type: ignore[call-arg]
    with pytest.raises(InputError, match="unexpected argument 'titel'") as caught:
        tag(titel="")  # type: ignore[call-arg]
    assert caught.value.fix == "did you mean 'title'?"


def test_binding_fills_in_defaults() -> None:
    assert tag.bind(1) == {"x": 1, "title": ""}


def test_replacing_a_step_replaces_every_call_of_it() -> None:
    assert tag.replace(double=triple)(1) == 9
    assert tag(1) == 4


def test_replacing_by_the_name_of_a_call_replaces_that_call() -> None:
    graph = tag.replace(double_2=triple).graph
    assert [node.step.name for node in graph] == ["double", "triple"]
    assert [node.name for node in graph] == ["double", "double_2"]


def test_a_later_replacement_wins_and_others_stay() -> None:
    both = tag.replace(double=triple).replace(double_2=many)
    assert [node.step.name for node in both.graph] == ["triple", "many"]
    assert both(1) == 30


def test_the_replacement_may_call_its_parameter_otherwise_when_passed_by_position() -> None:
    assert tag.replace(double=many)(1) == 100


def test_replacing_a_step_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(DefinitionError, match="no step dobule to replace") as caught:
        _ = tag.replace(dobule=triple).graph
    assert "double, double_2" in str(caught.value)


def test_a_plain_function_replaces_nothing() -> None:
    with pytest.raises(DefinitionError, match="@step") as caught:
        tag.replace(double=lambda x: x)  # type: ignore[arg-type]
    assert caught.value.got == "function"


def test_a_replacement_in_an_inner_pipeline_stays_inside_of_it() -> None:
    inner = tag.replace(double=triple)

    @pipeline
    def outer(x: int) -> int:
        return double(inner(x))

    assert [node.step.name for node in outer.graph] == ["triple", "triple", "double"]


def test_calls_are_counted_in_the_pipeline_that_names_them() -> None:
    inner = tag.replace(double_2=triple)

    @pipeline
    def outer(x: int) -> int:
        return double(inner(double(x)))

    names = [node.step.name for node in outer.graph]
    assert names == ["double", "double", "triple", "double"]
    assert [node.name for node in outer.graph] == ["double", "double_2", "double_3", "double_4"]


def test_an_inner_pipeline_without_the_step_to_replace_is_an_error_too() -> None:
    inner = tag.replace(nothing=triple)

    with pytest.raises(DefinitionError, match="pipeline 'tag': there is no step nothing"):

        @pipeline
        def outer(x: int) -> int:
            return inner(x)


def test_a_replacement_from_outside_reaches_inner_pipelines_too() -> None:
    @pipeline
    def outer(x: int) -> int:
        return double(tag(x))

    assert outer.replace(double=triple)(1) == 27


def test_an_annotation_that_names_nothing_is_a_definition_error() -> None:
    @pipeline
    def broken(x: "Nowhere") -> int:  # type: ignore[name-defined]  # noqa: F821
        return double(x)

    with pytest.raises(DefinitionError, match="Nowhere"):
        _ = broken.graph


def test_calling_one_inside_a_step_is_refused() -> None:
    @step
    def wrong(x: int) -> int:
        return tag(x)

    with pytest.raises(DefinitionError, match="pipeline 'tag' is called inside step 'wrong'"):
        wrong(1)


def test_its_text_is_its_graph() -> None:
    assert str(tag).splitlines()[0] == "tag(x: int, title: str = '') -> int"


def test_in_a_notebook_it_draws_itself_or_says_why_not() -> None:
    @pipeline
    def early(x: int) -> int:
        return defined_in_a_later_cell(x)  # type: ignore[name-defined]  # noqa: F821

    assert "<svg" in tag._repr_html_()
    html = early._repr_html_()
    assert "name &#39;defined_in_a_later_cell&#39; is not defined" in html
    assert "<svg" not in html


def a_condition(x: int) -> int:
    return double(x) if x else x


def a_wrong_keyword(x: int) -> int:
    return double(x, y=1)  # type: ignore[call-arg]


def an_error(x: int) -> int:
    return double(x // 0)


def a_local_name_too_early(x: int) -> int:
    y = double(y)  # type: ignore[used-before-def]  # noqa: F821
    return y


def another_librarys_function(x: int) -> int:
    return double(json.dumps(x))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fn", "kind", "message"),
    [
        (a_condition, DefinitionError, "condition"),
        (a_wrong_keyword, DefinitionError, "step 'double': it has no parameter 'y'"),
        (an_error, DefinitionError, "calculated with"),
        (a_local_name_too_early, UnboundLocalError, "y"),
        (another_librarys_function, PlaceholderError, "the argument 'x' .*was passed"),
    ],
)
def test_an_error_of_the_body_is_raised_where_it_is_written(
    fn: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        pipeline(fn)


def test_a_body_may_call_what_a_later_cell_defines() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "from mlkit import pipeline, step\n"
        "@pipeline\n"
        "def early(x: 'Later') -> int: return first(x)\n"
        "Later = int\n",
        names,
    )
    with pytest.raises(NameError, match="first"):
        names["early"](1)
    exec("@step\ndef first(x: int) -> int: return x + 1", names)
    assert names["early"](1) == 2


@step
def listed(x: int) -> list[str]:
    return [str(x)]


@pytest.mark.parametrize(
    ("result", "advice"),
    [
        (lambda xs, x: [double(item) for item in xs], "each(my_step, items)"),
        (lambda xs, x: [double(item) for item in listed(x)], "each(my_step, items)"),
        (lambda xs, x: [double(item) for item in x], "annotate the argument as tuple[A, B]"),
    ],
)
def test_a_loop_over_a_list_is_told_to_use_each(result: Any, advice: str) -> None:
    def looped(xs: list[int], x: int) -> Any:
        return result(xs, x)

    with pytest.raises(PlaceholderError) as caught:
        pipeline(looped)
    assert advice in str(caught.value.fix)
    assert ("each" in advice) is ("each" in str(caught.value.fix))


@pytest.mark.parametrize(
    "use",
    [lambda x: branch("a", {"a": x})(x), lambda x: each(x, [1])],
)
def test_a_result_in_place_of_a_step_is_named(use: Any) -> None:
    def wrong(x: int) -> Any:
        return use(double(x))

    with pytest.raises(DefinitionError) as caught:
        pipeline(wrong)
    assert caught.value.got == "the result of step 'double': int"


def double_it(x: int) -> int:
    return 2 * x


@pytest.mark.parametrize(
    ("value", "got", "fix"),
    [
        (double, "the step 'double'", "@pipeline def tag(x: int) -> int: return double(x)"),
        (many, "the step 'many'", "@pipeline def tag(xs: int) -> int: return many(xs)"),
        (double_it, "the function 'double_it'", "decorate double_it with @pipeline"),
        (int, "the class 'int'", "a function under @pipeline"),
        (3, "int", "a function under @pipeline"),
        (None, "NoneType", "a function under @pipeline"),
    ],
)
@pytest.mark.parametrize("entry", [deploy, plan, asgi, served, lambda value: profile(value, [1])])
def test_what_is_no_pipeline_is_told_how_to_become_one(
    entry: Any, value: Any, got: str, fix: str
) -> None:
    with pytest.raises(DefinitionError, match="not a pipeline") as caught:
        entry(value)
    assert caught.value.got == got
    assert fix in str(caught.value.fix)


@pytest.mark.parametrize("name", ["<lambda>", "../tag", "a/b", "a b", "", "tag\n", "1st", "a-b"])
def test_a_name_that_is_no_identifier_is_refused(name: str) -> None:
    def source(x: int) -> int:
        return double(x)

    source.__name__ = name
    with pytest.raises(DefinitionError, match="invalid name"):
        pipeline(source)


@pytest.mark.parametrize("value", [tag, double, double_it])
def test_what_is_no_app_is_told_to_be_deployed(value: Any) -> None:
    with pytest.raises(InputError, match="a dashboard shows an app") as caught:
        Dashboard(value)
    assert caught.value.fix == "deploy the pipeline first: Dashboard(deploy(tag))"
    with pytest.raises(LoadError, match="cannot be load-tested") as failed:
        load_test(value, [1], constant(rate=1), duration_s=1)
    assert "deploy" in str(failed.value.fix)


def test_an_app_is_attached_to_by_name() -> None:
    with pytest.raises(SessionError, match="by its name") as caught:
        attach(tag)  # type: ignore[arg-type]
    assert caught.value.fix == "attach('tag')"

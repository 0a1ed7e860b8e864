"""Control flow in pipelines: `branch` selects a step, `each` maps one over a list."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, cast

from mlkit.define.source import unknown_key
from mlkit.define.step import BatchedStep, Step
from mlkit.define.tracing import Placeholder, current_tracer, described
from mlkit.define.typing import item_type, show
from mlkit.errors import DefinitionError, entry_point

__all__ = ["branch", "each"]

P = ParamSpec("P")
R = TypeVar("R")


@entry_point
def branch(
    on: Any, arms: Mapping[Any, Callable[P, R]], *, default: Callable[P, R] | None = None
) -> Callable[P, R]:
    """Select one of several steps by value: ``branch(kind(x), {"basic": a, "premium": b})(x)``.

    Only the selected arm runs. All arms take the same arguments.

    Args:
        on: the key: a step's result, or an argument of the pipeline.
        arms: a step or pipeline per key: strings, numbers, members of an enum.
        default: the arm for every other key. Without it, another key is an `InputError`.

    Returns:
        a function that takes the arms' arguments and calls the selected one.

    Raises:
        DefinitionError: no arms, an invalid key, or an arm that is neither a step nor a pipeline.
    """
    if not arms:
        raise DefinitionError("a branch has at least one arm", where="branch")
    for key, arm in arms.items():
        if not isinstance(key, Hashable) or isinstance(key, Placeholder):
            raise DefinitionError("invalid key of an arm", where="branch", got=repr(key))
        _check_arm(repr(key), arm)
    if default is not None:
        _check_arm("default", default)
    tracer = current_tracer()
    if tracer is not None and isinstance(on, Placeholder):
        return cast("Callable[P, R]", tracer.branch(on, dict(arms), default))
    if isinstance(on, Hashable) and on in arms:
        return arms[on]
    if default is None:
        raise unknown_key("branch", on, tuple(arms))
    return default


def _check_arm(name: str, arm: Any) -> None:
    # A `Pipeline` has replacements; a placeholder is not to be asked for them.
    if isinstance(arm, Placeholder) or not (isinstance(arm, Step) or hasattr(arm, "replacements")):
        raise DefinitionError(
            f"the arm {name} is neither a step nor a pipeline",
            where="branch",
            got=described(arm),
            fix="decorate it with @step, and name it without calling it",
        )


@entry_point
def each(step: Step[..., R], items: Sequence[Any], /, **others: Any) -> list[R]:
    """Map a step over a list within a request: ``each(classify, crops(picture))``.

    Items of a batched step share batches with those of other requests.

    Args:
        step: the step; its first parameter takes the items.
        items: a list: a step's result, or an argument of the pipeline.
        others: further arguments of the step, the same for every item.

    Returns:
        a list with the step's result for each item, in order.

    Raises:
        DefinitionError: not a step, or the arguments do not match it.
    """
    if not isinstance(step, Step):
        raise DefinitionError(
            "each runs a step", where="each", got=described(step), fix="each(my_step, items)"
        )
    if step.streams:
        raise DefinitionError(
            "each cannot run a step that streams",
            where=f"step {step.name!r}",
            fix="collect its items into a list, and annotate it list[T]",
        )
    first = next(iter(step.parameters), None)
    if first is None:
        raise DefinitionError("it takes no item", where=f"step {step.name!r}")
    tracer = current_tracer()
    if tracer is not None:
        _check_list(step, items)
        return cast("list[R]", tracer.call(step, (), {first: items, **others}, each=first))
    values = list(items)
    if isinstance(step, BatchedStep):
        return _in_batches(step, first, values, others)
    return [step(**{first: value}, **others) for value in values]


def _check_list(step: Step[..., Any], items: Any) -> None:
    if not isinstance(items, Placeholder):
        return
    type_ = items._mlkit_type
    if type_ is not inspect.Parameter.empty and item_type(type_) is inspect.Parameter.empty:
        raise DefinitionError(
            f"each({step.name}, ...) needs a list",
            where=f"step {step.name!r}",
            expected=f"list[{show(step.input_type(next(iter(step.parameters))))}]",
            got=show(type_),
            fix="annotate a list; make one of anything else in a step",
        )


def _in_batches(
    step: BatchedStep[..., R], first: str, values: list[Any], others: Mapping[str, Any]
) -> list[R]:
    size = step.max_batch_size
    results: list[R] = []
    for start in range(0, len(values), size):
        part = values[start : start + size]
        results += step.batch(**{first: part}, **{k: [v] * len(part) for k, v in others.items()})
    return results

"""What counts as a success: statuses, a schema of the body, or a function of the response."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from mlkit.errors import LoadError

__all__ = ["Expect", "Expectation", "Received", "expectation"]


class Received(NamedTuple):
    """A response as ``expect`` gets it."""

    status: int
    media_type: str
    body: bytes

    def json(self) -> Any:
        """Return the body, parsed as JSON."""
        return json.loads(self.body)


Expect: TypeAlias = int | Collection[int] | type | Mapping[str, Any] | Callable[[Received], bool]


@dataclass(frozen=True)
class Expectation:
    """Which responses are successes.

    Attributes:
        statuses: statuses of successes; empty for any 2xx.
        nonempty: whether a success has a body.
        judge: returns why a response is a failure, or ""; None if bodies are not checked.
    """

    statuses: frozenset[int] = frozenset()
    nonempty: bool = False
    judge: Callable[[Received], str] | None = None


def expectation(expect: Expect | None, *, nonempty: bool) -> Expectation:
    """Interpret ``expect`` of `load_test`.

    Args:
        expect: a status or several, a type that pydantic validates, a JSON schema, or a function.
        nonempty: whether a success needs a body, where ``expect`` does not say.

    Raises:
        LoadError: ``expect`` has another type.
    """
    if expect is None:
        return Expectation(nonempty=nonempty)
    if isinstance(expect, type) or hasattr(expect, "__origin__") or hasattr(expect, "__args__"):
        return Expectation(judge=_matches_type(expect))
    if isinstance(expect, Mapping):
        return Expectation(judge=_matches_schema(expect))
    if callable(expect):
        return Expectation(judge=_passes(expect))
    statuses: Any = [expect] if isinstance(expect, int) else expect
    if isinstance(statuses, Collection) and not isinstance(statuses, (str, bytes)):
        expected = frozenset(statuses)
        if expected and all(isinstance(s, int) and 200 <= s <= 599 for s in expected):
            return Expectation(expected)
    raise LoadError(
        "invalid expect",
        where="load_test(..., expect=...)",
        expected="a status, a set of them, a pydantic type, a JSON schema, or a function",
        got=repr(expect),
    )


def _matches_type(type_: Any) -> Callable[[Received], str]:
    from pydantic import TypeAdapter, ValidationError

    adapter: TypeAdapter[Any] = TypeAdapter(type_)

    def judge(answer: Received) -> str:
        try:
            adapter.validate_json(answer.body)
        except ValidationError as error:
            first = error.errors()[0]
            return ".".join(map(str, (*first["loc"], first["msg"])))
        return ""

    return judge


def _matches_schema(schema: Mapping[str, Any]) -> Callable[[Received], str]:
    import jsonschema  # type: ignore[import-untyped]

    validator_class = jsonschema.validators.validator_for(schema)
    try:
        validator_class.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise LoadError(
            f"expect is not a JSON schema: {error.message}", where="load_test(..., expect=...)"
        ) from None
    validator = validator_class(schema)

    def judge(answer: Received) -> str:
        try:
            error = jsonschema.exceptions.best_match(validator.iter_errors(answer.json()))
        except ValueError as reason:
            return f"not JSON: {reason}"
        return "" if error is None else f"{error.json_path}: {error.message}"

    return judge


def _passes(check: Callable[[Received], bool]) -> Callable[[Received], str]:
    def judge(answer: Received) -> str:
        try:
            return "" if check(answer) else "expect returned False"
        except Exception as error:  # such as an assertion, or a key that is missing
            return f"expect raised {type(error).__name__}: {error}"

    return judge

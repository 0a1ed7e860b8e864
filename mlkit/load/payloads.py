"""Which payload each request carries: in turn, sampled, mixed, or filled in from a template.

Everything is drawn before the first request from the seed of the load test, so that the same test
sends the same requests.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from mlkit.errors import LoadError, entry_point
from mlkit.load.requests import HttpRequest, Preparable, as_list
from mlkit.load.spec import check_integer, check_positive

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Mix",
    "MixPart",
    "Sampled",
    "Selection",
    "Template",
    "mix",
    "part",
    "reusable",
    "sampled",
    "select",
    "template",
]

CYCLE = 2**16
"""How many payloads are drawn where the number of requests is not known; then they repeat."""
DISTINCT = 10_000

Placeholder: TypeAlias = "Sequence[Any] | Callable[[np.random.Generator], Any]"


class Selection(NamedTuple):
    """The payloads of a load test.

    Attributes:
        payloads: the different payloads.
        order: their indices in the order of sending; after the last comes the first again.
        targets: the target of each payload; None for that of the load test.
        parts: number of payloads by part of a mix, in their order; empty without one.
    """

    payloads: Sequence[Any]
    order: NDArray[np.int64]
    targets: Sequence[Preparable | str | None]
    parts: Mapping[str, int] = {}


def select(payloads: Any, needed: int | None, seed: int) -> Selection:
    """Choose the payload of each request.

    Args:
        payloads: what `load_test` takes.
        needed: number of requests, warm-up included; None if it is not known.
        seed: of everything that is drawn.

    Raises:
        LoadError: the payloads are invalid, or there are too few of them.
    """
    if isinstance(payloads, (Sampled, Mix, Template)):
        return payloads.select(needed, seed)
    return _in_turn(as_list(payloads), needed, seed)


def _in_turn(items: Sequence[Any], needed: int | None, seed: int) -> Selection:
    """All of them in a seeded order, over and over."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(items))
    return Selection(items, order[:needed] if needed else order, [None] * len(items))


@dataclass(frozen=True, eq=False)
class Sampled:
    """Payloads drawn at random; see `sampled`."""

    payloads: Sequence[Any]
    weights: NDArray[np.float64] | None
    replace: bool

    def select(self, needed: int | None, seed: int) -> Selection:
        """Draw the payload of each request; see `mlkit.load.payloads.select`."""
        import numpy as np

        items, weights = self.payloads, self.weights
        if not self.replace:
            usable = len(items) if weights is None else int((weights > 0).sum())
            if needed is None:
                raise LoadError(
                    "payloads drawn without replacement need a known number of requests",
                    where="sampled(..., replace=False)",
                    expected="a schedule such as poisson(rate=50), and a finite duration",
                )
            if needed > usable:
                raise LoadError(
                    "the payloads run out",
                    where="sampled(..., replace=False)",
                    expected=f"at least {needed:,}, one for each request of test and warm-up",
                    got=f"{usable:,}",
                    fix="send fewer requests, or replace=True",
                )
        stream = np.random.default_rng([seed, 2])
        share = None if weights is None else weights / weights.sum()
        size = CYCLE if needed is None else needed
        order = stream.choice(len(items), size=size, replace=self.replace, p=share)
        return Selection(items, order, [None] * len(items))


@dataclass(frozen=True, eq=False)
class Template:
    """A payload with placeholders; see `template`."""

    payload: Any
    placeholders: Mapping[str, Placeholder]
    distinct: int

    def select(self, needed: int | None, seed: int) -> Selection:
        """Fill in the payload of each request; see `mlkit.load.payloads.select`."""
        import numpy as np

        count = self.distinct if needed is None else min(needed, self.distinct)
        sources = {
            name: _values(name, source, np.random.default_rng([seed, 3, number]))
            for number, (name, source) in enumerate(sorted(self.placeholders.items()))
        }
        pattern = _pattern(self.placeholders)
        filled = []
        for number in range(count):
            values = {name: next(source, _END) for name, source in sources.items()}
            if ended := [name for name, value in values.items() if value is _END]:
                raise LoadError(
                    f"the values of {ended[0]!r} run out after {number:,}",
                    where="template(...)",
                    expected=f"at least {count:,}, one for each request",
                    fix="yield in `while True`, or send fewer requests",
                )
            plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
            filled.append(_fill(self.payload, pattern, plain))
        return Selection(filled, np.arange(count), [None] * count)


@dataclass(frozen=True, eq=False)
class MixPart:
    """A part of a mix; see `part`."""

    payloads: Any
    share: float
    target: Preparable | str | None


@dataclass(frozen=True, eq=False)
class Mix:
    """Several kinds of requests in one load test; see `mix`."""

    parts: Mapping[str, MixPart]

    def select(self, needed: int | None, seed: int) -> Selection:
        """Draw the part of each request, then its payload; see `mlkit.load.payloads.select`."""
        import numpy as np

        size = CYCLE if needed is None else needed
        shares = np.array([part.share for part in self.parts.values()])
        stream = np.random.default_rng([seed, 4])
        chosen = stream.choice(len(shares), size=size, p=shares / shares.sum())
        order = np.empty(size, dtype=np.int64)
        payloads: list[Any] = []
        targets: list[Preparable | str | None] = []
        parts: dict[str, int] = {}
        for number, (name, part) in enumerate(self.parts.items()):
            mine = chosen == number
            own = select(part.payloads, None if needed is None else int(mine.sum()), seed)
            order[mine] = np.resize(own.order, int(mine.sum())) + len(payloads)
            payloads += own.payloads
            targets += [part.target] * len(own.payloads)
            parts[name] = len(own.payloads)
        return Selection(payloads, order, targets, parts)


@entry_point
def sampled(payloads: Any, *, weights: Any = None, replace: bool = True) -> Sampled:
    """Draw the payload of each request at random, for instance as often as products are viewed.

    ::

        load_test(app, sampled(photos, weights=views), poisson(rate=50), duration_s=20)

    Args:
        payloads: a list or a DataFrame, as `load_test` takes them.
        weights: how often each is drawn, relative to the others: a number per payload, or the name
            of a column of the DataFrame, which is not sent. By default all are equally likely.
        replace: whether a payload may be sent more than once. With False each is sent at most once,
            which no cache can answer, and the number of requests must be known.

    Raises:
        LoadError: there is no payload, or the weights do not fit them.
    """
    if isinstance(weights, str):
        if weights not in getattr(payloads, "columns", ()):
            raise LoadError(
                "there is no such column of weights",
                where="sampled(..., weights=...)",
                expected="a column of the DataFrame of payloads",
                got=repr(weights),
            )
        payloads, weights = payloads.drop(columns=weights), payloads[weights]
    items = as_list(payloads)
    return Sampled(items, None if weights is None else _weights(weights, len(items)), replace)


@entry_point
def template(payload: Any, /, *, distinct: int = DISTINCT, **placeholders: Placeholder) -> Template:
    """Fill in a payload for each request: ``{name}`` in its texts becomes a value of ``name``.

    ::

        def number(rng):
            yield from itertools.count()

        product = {"title": "{colour} shoe {number}", "price": "{price}"}
        def price(rng):
            return rng.uniform(9, 99)

        template(product, colour=["red", "blue"], number=number, price=price)

    A text that is nothing but a placeholder becomes the value itself, of whatever type.

    Args:
        payload: a text, bytes, an `mlkit.load.requests.HttpRequest`, or dicts and lists of such.
        distinct: how many different payloads are made at most, before the test starts; then they
            repeat.
        placeholders: by name, a list, of which one is drawn for each request; a function of a
            seeded `numpy.random.Generator`, called for each request; or a generator function of it,
            called once.

    Raises:
        LoadError: a placeholder is not in the payload, or has no usable values.
    """
    check_integer("template", "distinct", distinct, 1)
    if not placeholders:
        raise LoadError(
            "a template needs placeholders",
            where="template(...)",
            expected="template({'title': '{colour} shoe'}, colour=['red', 'blue'])",
            got="none",
        )
    source: Any
    for name, source in placeholders.items():
        usable = isinstance(source, Sequence) and not isinstance(source, (str, bytes)) and source
        if not (usable or callable(source)):
            raise LoadError(
                "these values cannot be used",
                where=f"template(..., {name}=...)",
                expected="a list, or a function of a random generator",
                got=repr(source),
                fix="write [value] for a single one; a generator function instead of a generator,"
                " which the first test would use up",
            )
    used: set[str] = set()
    _fill(payload, _pattern(placeholders), _Found(used))
    if unused := sorted(placeholders.keys() - used):
        raise LoadError(
            "a placeholder is not in the payload",
            where="template(...)",
            expected=f"{{{unused[0]}}} in one of its texts",
            got=f"{payload!r:.200}",
        )
    return Template(payload, placeholders, distinct)


@entry_point
def part(payloads: Any, *, share: float, target: Preparable | str | None = None) -> MixPart:
    """Describe a part of a `mix`.

    Args:
        payloads: whatever `load_test` takes.
        share: of the requests, relative to the shares of the other parts.
        target: where they go, an App or a URL; by default the target of the load test. All must be
            on the same server.

    Raises:
        LoadError: the share is not positive and finite.
    """
    check_positive("part", "share", share, "a finite number above 0")
    return MixPart(payloads, float(share), target)


@entry_point
def mix(**parts: MixPart) -> Mix:
    """Send several kinds of requests in one load test, also to several apps.

    ::

        both = mix(tag=part(photos, share=0.8), search=part(queries, share=0.2, target=search))
        result = load_test(app, both, poisson(rate=50), duration_s=20)
        result.to_frame().groupby("part").latency_ms.quantile(0.99)

    Args:
        parts: by name; each request is drawn from one of them, as their shares say.

    Raises:
        LoadError: there is no part, or one is not from `part`.
    """
    parts_by_name: dict[str, Any] = parts
    wrong = [name for name, part in parts_by_name.items() if not isinstance(part, MixPart)]
    if wrong or not parts:
        raise LoadError(
            "a mix needs parts",
            where=f"mix({wrong[0]}=...)" if wrong else "mix(...)",
            expected="part(payloads, share=0.8)",
            got=type(parts[wrong[0]]).__name__ if wrong else "none",
        )
    return Mix(parts)


def _weights(weights: Any, count: int) -> NDArray[np.float64]:
    import numpy as np

    try:
        values = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.array([math.nan])
    fault = None
    if values.shape != (count,):
        fault = f"{values.size:,} weights for {count:,} payloads"
    elif not np.isfinite(values).all() or (values < 0).any():
        fault = "negative, missing or infinite weights"
    elif not values.any():
        fault = "only zeros"
    if fault is not None:
        raise LoadError(
            "the weights do not fit the payloads",
            where="sampled(..., weights=...)",
            expected="a finite number of at least 0 for each payload, not all of them 0",
            got=fault,
        )
    return values


_END = object()


class _Found(dict[str, Any]):
    """Notes which placeholders are asked for."""

    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, name: str) -> str:
        self._names.add(name)
        return ""


def _values(name: str, source: Placeholder, stream: np.random.Generator) -> Iterator[Any]:
    if not callable(source):
        while True:
            yield source[int(stream.integers(len(source)))]
    elif inspect.isgeneratorfunction(source):
        yield from source(stream)
    else:
        while True:
            yield source(stream)


def _pattern(placeholders: Mapping[str, Any]) -> re.Pattern[str]:
    # Other braces, such as those of JSON, stay as they are.
    return re.compile(r"\{(" + "|".join(map(re.escape, placeholders)) + r")\}")


def _fill(value: Any, pattern: re.Pattern[str], values: Mapping[str, Any]) -> Any:
    """Replace the placeholders in all texts of a value."""
    if isinstance(value, str):
        whole = pattern.fullmatch(value)
        return values[whole[1]] if whole else pattern.sub(lambda m: str(values[m[1]]), value)
    if isinstance(value, bytes):
        text = value.decode("latin-1")  # any bytes there and back
        return pattern.sub(lambda m: _latin(values[m[1]]), text).encode("latin-1")
    if isinstance(value, Mapping):
        return {key: _fill(item, pattern, values) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_fill(item, pattern, values) for item in value]
    if isinstance(value, HttpRequest):
        url, headers, body = (
            _fill(v, pattern, values) for v in (value.url, value.headers, value.body)
        )
        return replace(value, url=str(url), headers=headers, body=body)
    return value


def _latin(value: Any) -> str:
    """A value as text whose latin-1 bytes are its UTF-8 bytes."""
    return str(value).encode().decode("latin-1")


def reusable(payloads: Any) -> Any:
    """Return payloads for several load tests; an iterator would be exhausted by the first."""
    return payloads if isinstance(payloads, (Sampled, Mix, Template)) else as_list(payloads)

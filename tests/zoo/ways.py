"""Every way of a value through a pipeline, compared with the call in this process."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import httpx2
import jsonschema
from hypothesis import strategies as st

from mlkit import pipeline, step
from mlkit.define.border import plain
from mlkit.define.equality import same
from mlkit.errors import DefinitionError, InputError, MlkitError
from mlkit.execute import Executor, compile_graph
from mlkit.execute.local import localise_arguments
from mlkit.serving import Limits
from mlkit.serving.http.ingress import create_app
from mlkit.serving.http.lifecycle import Served
from mlkit.serving.kernel.client import Codec
from mlkit.serving.replica.remote import pack, unpack
from tests.zoo.strategies import draw, values_of

ADDRESS = "http://127.0.0.1"
WAYS = ("app", "json", "upload", "map", "stage", "stream", "events", "form", "tensor")
EQUAL, REFUSED, NONE = "equal", "refused beforehand", "-"
WRONG = "wrong"
ORDER = (NONE, REFUSED, EQUAL, WRONG)
"""A way has the last of these words that any value had."""


@dataclass
class Entry:
    """A type, as argument and as result of a pipeline.

    Attributes:
        values: a strategy, or a few values.
        refused: whether a problem of the pipeline says that the type cannot cross the border.
        body: JSON to send instead of the value's own JSON form, if that cannot be read back.
        answer: the public answer to ``body``, as far as it is known without mlkit.
        result: returns what the step returns for its argument, which is a number or a text.
        equal: compares values without an equality of their own.
        drawn: whether more values are drawn, where a strategy is known.
        uploaded: whether uploads keep the value although JSON does not.
    """

    name: str
    type: Any
    values: Sequence[Any] | st.SearchStrategy[Any] = ()
    refused: bool = False
    body: Any = None
    answer: Any = None
    result: Callable[[Any], Any] | None = None
    equal: Callable[[Any, Any], bool] | None = None
    drawn: bool = True
    uploaded: bool = False


@dataclass
class Outcome:
    """What became of an entry: a word for each way, and what was wrong."""

    words: dict[str, str]
    wrong: list[str] = field(default_factory=list)


def visit(entry: Entry, loop: asyncio.AbstractEventLoop, examples: int) -> Outcome:
    """Send values of an entry through every way.

    Args:
        entry: the type.
        loop: runs the application.
        examples: values to draw, besides those of the entry.
    """
    pipe, seen = _pipeline(entry)
    try:
        problems = pipe.problems
    except DefinitionError as error:
        problems = (error,)
    if problems:
        without_fix = [f"{problem}: says no way out" for problem in problems if not problem.fix]
        wrong = without_fix if entry.refused else [f"refused: {problems[0]}"]
        return Outcome(dict.fromkeys(WAYS, REFUSED), wrong)
    if entry.refused:
        return Outcome(dict.fromkeys(WAYS, WRONG), ["accepted"])
    outcome = Outcome({})
    with (
        Executor(compile_graph(pipe.graph), workers=1) as executor,
        closing(Face(pipe, seen, entry, executor, loop)) as face,
    ):
        for value in _values(entry, examples):
            for way in WAYS:
                try:
                    word = getattr(face, way)(value)
                except Exception as error:
                    if outcome.words.get(way) != WRONG:
                        diagnosis = f"{type(error).__name__}: {error}"
                        outcome.wrong.append(f"{way}: {value!r:.80}: {diagnosis}")
                    word = WRONG
                outcome.words[way] = max(word, outcome.words.get(way, NONE), key=ORDER.index)
    return outcome


def _pipeline(entry: Entry) -> tuple[Any, list[Any]]:
    seen: list[Any] = []
    result = entry.result

    def same(x):  # type: ignore[no-untyped-def]
        seen.append(x)
        return x if result is None else result(x)

    same.__annotations__ = {
        "x": entry.type if result is None else type(entry.values[0]),
        "return": entry.type,
    }
    same_step = step(same)

    def echo(x):  # type: ignore[no-untyped-def]
        return same_step(x)

    echo.__annotations__ = same.__annotations__
    return pipeline(echo), seen


def _streaming(entry: Entry, fn: Callable[[Any], Any]) -> Any:
    """A pipeline that streams the result of a function for its argument, twice."""

    def repeat(x):  # type: ignore[no-untyped-def]
        yield fn(x)
        yield fn(x)

    argument = fn.__annotations__["x"]
    repeat.__annotations__ = {"x": argument, "return": Iterator[entry.type]}  # type: ignore[name-defined]
    repeat_step = step(repeat)

    def echo(x):  # type: ignore[no-untyped-def]
        return repeat_step(x)

    echo.__annotations__ = repeat.__annotations__
    return pipeline(echo)


def _values(entry: Entry, examples: int) -> list[Any]:
    if isinstance(entry.values, st.SearchStrategy):
        return draw(entry.values, examples)
    as_they_are = entry.result is None and entry.body is None and entry.answer is None
    drawn = values_of(entry.type, examples) if as_they_are and entry.drawn else []
    return [*entry.values, *drawn]


class Face:
    """A pipeline behind its application in this process."""

    def __init__(
        self, pipe: Any, seen: list[Any], entry: Entry, executor: Executor, loop: Any
    ) -> None:
        self.pipe, self.seen, self.entry, self.loop = pipe, seen, entry, loop
        self.codec = Codec(pipe.graph)
        served = Served(executor, Limits())
        self.served = served
        app = create_app(pipe.graph, lambda: served, Limits(), None)
        self.client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=ADDRESS)
        self.equal = entry.equal or same
        self.executors: list[Executor] = []
        self._here: tuple[Any, Any, Any] | None = None

    @functools.cached_property
    def document(self) -> Any:
        """The OpenAPI document."""
        return self._run(self.client.get("/openapi.json")).json()

    def here(self, value: Any) -> tuple[Any, Any]:
        """What the step gets, and what the pipeline returns, in this process."""
        if self._here is None or self._here[0] is not value:  # each way asks for it
            result = self.pipe(value)
            self._here = value, self.seen[-1], result
        return self._here[1:]

    def app(self, value: Any) -> str:
        """As `App` does: the client's own request, its own reading of the answer."""
        arrived, expected = self.here(value)
        arguments = localise_arguments(self.pipe.graph, {"x": value})
        request = self.codec.request(f"{ADDRESS}/echo", None, arguments)
        response = self._post(request.headers, request.body)
        result = self.codec.result(response.content, response.headers["content-type"])
        self._same(self.seen[-1], arrived, "the step got")
        self._same(result, expected, "the result is")
        return EQUAL

    def json(self, value: Any) -> str:
        """As other clients do, in JSON; request and answer are as documented."""
        content = self._content(value)
        body = json.dumps(content, default=plain).encode()
        self._valid(content, self._operation["requestBody"])
        response = self._post({"Content-Type": "application/json"}, body)
        arrived = self.codec.arguments.schema.parse(body)["x"]
        self._same(self.seen[-1], arrived, "the step got")
        self._answered(response, arrived)
        return EQUAL

    def upload(self, value: Any) -> str:
        """As a raw body or a form, where the type has one."""
        files = self.codec.arguments.files
        if not files:
            return NONE
        value = localise_arguments(self.pipe.graph, {"x": value})["x"]
        try:
            request = self.codec.public_request(f"{ADDRESS}/echo", None, {"x": value})
        except InputError:  # such as an array of objects
            return REFUSED
        if request.headers["Content-Type"] == "application/json":
            return NONE
        headers = {"Content-Type": request.headers["Content-Type"]}
        response = self._post(headers, request.body)
        self._answered(response, self.seen[-1])
        arrived = self.seen[-1]
        if self.entry.body is None or self.entry.uploaded:
            self._same(arrived, self.here(value)[0], "the step got")
        return EQUAL

    def map(self, value: Any) -> str:
        """Offline, among others."""
        _, expected = self.here(value)
        results = self.pipe.map([{"x": value}, {"x": value}], progress=False, workers=1)
        for result in results:
            self._same(result, expected, "the result is")
        return EQUAL

    def stage(self, value: Any) -> str:
        """From one process of an app to another."""
        _, expected = self.here(value)
        self._same(unpack(pack(expected)), expected, "the other side got")
        return EQUAL

    def stream(self, value: Any) -> str:
        """Item by item: as `App.stream` does, and as other clients do, in lines."""
        pipe = self._streaming_pipe
        local = localise_arguments(pipe.graph, {"x": value})
        face = self._streaming
        items = list(pipe.stream(value))
        request = face.codec.request(f"{ADDRESS}/echo", None, local, stream=True)
        streamed = list(face.codec.streamed([face._post(request.headers, request.body).content]))
        _, expected = self.here(value)
        for item in [*items, *streamed]:
            self._same(item, expected, "the item is")
        assert len(items) == len(streamed) == 2
        body = json.dumps(self._content(value), default=plain).encode()
        kinds = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
        *lines, end = map(json.loads, face._post(kinds, body).content.splitlines())
        assert (len(lines), end["event"]) == (2, "end"), end
        for line in lines:
            assert same(line["data"], json.loads(face._item_text(self.seen[-1]))), line
        return EQUAL

    @functools.cached_property
    def _streaming_pipe(self) -> Any:
        return _streaming(self.entry, self.pipe.graph.nodes[0].step.fn)

    @functools.cached_property
    def _streaming(self) -> Face:
        executor = Executor(compile_graph(self._streaming_pipe.graph), workers=1)
        self.executors.append(executor)
        return Face(self._streaming_pipe, self.seen, self.entry, executor, self.loop)

    def _item_text(self, arrived: Any) -> bytes:
        assert self.codec.items is not None
        return self.codec.items.to_text(next(self.pipe.graph.nodes[0].step(arrived)))

    def close(self) -> None:
        """Close the executors of further pipelines."""
        for executor in self.executors:
            executor.close()

    def events(self, value: Any) -> str:
        """As the last of a stream of events."""
        body = json.dumps(self._content(value), default=plain).encode()
        kinds = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        response = self._post(kinds, body)
        *_, last = response.content.strip().split(b"\n\n")
        name, data = last.split(b"\n")
        assert name == b"event: result", last
        shown = json.loads(data.removeprefix(b"data: "))
        assert same(shown, json.loads(self._text(self.seen[-1])))
        return EQUAL

    def form(self, value: Any) -> str:
        """As a field of the playground."""
        assert self._page.count('data-name="x"') == 1
        return EQUAL

    @functools.cached_property
    def _page(self) -> str:
        page = self._run(self.client.get("/try"))
        assert page.status_code == 200
        return str(page.text)

    def tensor(self, value: Any) -> str:
        """As a tensor of the Open Inference Protocol."""
        assert [given["name"] for given in self._metadata["inputs"]] == ["x"]
        for described in (*self._metadata["inputs"], *self._metadata["outputs"]):
            assert described["parameters"]["content_type"]
            assert described["datatype"]
        return EQUAL

    @functools.cached_property
    def _metadata(self) -> Any:
        return self._run(self.client.get("/v2/models/echo")).json()

    def _content(self, value: Any) -> dict[str, Any]:
        if self.entry.body is not None:
            return {"x": self.entry.body}
        local = localise_arguments(self.pipe.graph, {"x": value})["x"]
        return {"x": json.loads(self.codec.ports["x"].to_text(local))}

    def _answered(self, response: Any, arrived: Any) -> None:
        if response.headers["content-type"] != "application/json":
            to_bytes = self.codec.returns.to_bytes
            assert to_bytes is not None, "the answer is no JSON"
            assert response.content == to_bytes(self._returned(arrived))[0], "other bytes"
            return
        answer = response.json()
        expected = json.loads(self._text(arrived))
        assert same(answer, expected), f"the answer is {answer!r}, not {expected!r}"
        if self.entry.answer is not None:
            assert same(answer, self.entry.answer), f"the answer is {answer!r}"
        self._valid(answer, self._operation["responses"]["200"])

    def _text(self, arrived: Any) -> bytes:
        """The public serialization of what the pipeline returns here."""
        return self.codec.returns.to_text(self._returned(arrived))

    def _returned(self, arrived: Any) -> Any:
        return self.pipe.graph.nodes[0].step(arrived)

    @property
    def _operation(self) -> Any:
        return self.document["paths"]["/echo"]["post"]

    def _valid(self, instance: Any, documented: Any) -> None:
        schema = documented["content"]["application/json"]["schema"]
        whole = {**schema, "components": self.document["components"]}
        jsonschema.Draft202012Validator(whole).validate(instance)

    def _same(self, left: Any, right: Any, what: str) -> None:
        assert self.equal(left, right), f"{what} {left!r:.150}, not {right!r:.150}"

    def _post(self, headers: dict[str, str], body: bytes) -> Any:
        response = self._run(self.client.post("/echo", headers=headers, content=body))
        if response.status_code != 200:
            failures = [f.traceback for f in self.served.failures.last]
            raise MlkitError(f"{response.status_code} {response.text[:300]}\n{''.join(failures)}")
        return response

    def _run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

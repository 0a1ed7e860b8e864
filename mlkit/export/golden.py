"""Golden requests: what a pipeline answered where it was written, for others to be compared with.

Each is kept twice: in the exact form, for calls in Python, and as HTTP, as other clients send it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlkit.define.equality import same
from mlkit.define.exact import Exact
from mlkit.define.source import brief
from mlkit.errors import MlkitError
from mlkit.execute.local import localise_arguments
from mlkit.pipelines import Pipeline
from mlkit.serving.http.appparts import Application
from mlkit.serving.http.inprocess import asgi
from mlkit.serving.kernel.client import Codec, PreparedRequest

__all__ = [
    "Golden",
    "HttpAnswer",
    "call",
    "command",
    "compare",
    "exchange_with",
    "read",
    "record",
    "send",
    "write",
]

INDEX = "requests.json"
BASE_URL = "http://127.0.0.1"
_SUFFIXES = {
    "application/json": "json",
    "application/x-ndjson": "ndjson",
    "audio/wav": "wav",
    "image/jpeg": "jpg",
    "image/png": "png",
    "text/csv": "csv",
    "text/plain": "txt",
}


@dataclass(frozen=True)
class HttpAnswer:
    """The compared parts of an HTTP response."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True)
class Golden:
    """A request and its answer.

    Attributes:
        name: its number.
        arguments: arguments in the exact form.
        result: result in the exact form.
        request: the request of other clients; its URL is a path.
        answer: the response to that.
    """

    name: str
    arguments: bytes
    result: bytes
    request: PreparedRequest
    answer: HttpAnswer


def record(
    pipeline: Pipeline[..., Any],
    inputs: Sequence[Mapping[str, Any]],
    modules: Mapping[str, str],
    fastapi: Application | None = None,
) -> list[Golden]:
    """Call a pipeline in this process, and keep what it is asked and what it answers.

    Args:
        pipeline: the pipeline.
        inputs: arguments of each call.
        modules: names of modules in the exported code, by their names in this process.
        fastapi: application that embeds it.
    """
    graph = pipeline.graph
    exact, codec = Exact(graph, modules), Codec(graph)
    calls = [localise_arguments(graph, pipeline.bind(**arguments)) for arguments in inputs]
    requests = [codec.public_request(f"{BASE_URL}/{graph.name}", None, call) for call in calls]
    arguments = [exact.encode(dict(call)) for call in calls]
    results = [exact.encode_result(pipeline(**call)) for call in calls]
    answers = exchange_with(pipeline, requests, fastapi)
    requests_and_answers = zip(arguments, results, requests, answers, strict=True)
    return [Golden(str(number), *parts) for number, parts in enumerate(requests_and_answers, 1)]


def exchange_with(
    pipeline: Pipeline[..., Any],
    requests: Sequence[PreparedRequest],
    fastapi: Application | None = None,
) -> list[HttpAnswer]:
    """Send requests to the application of a pipeline in this process, one after the other."""
    import httpx2

    async def send_all() -> list[HttpAnswer]:
        app = asgi(pipeline, fastapi=fastapi)
        transport = httpx2.ASGITransport(app=app)
        async with _running(app), httpx2.AsyncClient(transport=transport) as client:
            responses = [
                await client.post(r.url, headers=r.headers, content=r.body, timeout=None)
                for r in requests
            ]
        return [_answer(response) for response in responses]

    answers: list[HttpAnswer] = _run(send_all())
    return answers


@asynccontextmanager
async def _running(app: Any) -> AsyncIterator[None]:
    """Start an application, and stop it at the end, as a server does."""
    received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    sent: asyncio.Queue[Any] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
    task = asyncio.ensure_future(app(scope, received.get, sent.put))
    received.put_nowait({"type": "lifespan.startup"})
    message = await sent.get()
    if message["type"] == "lifespan.startup.failed":
        await task
    yield
    received.put_nowait({"type": "lifespan.shutdown"})
    await task


def _run(coroutine: Any) -> Any:
    """Run a coroutine, also in a notebook, where this thread has a running loop."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def _answer(response: Any) -> HttpAnswer:
    return HttpAnswer(
        response.status_code, response.headers.get("content-type", ""), response.content
    )


def write(folder: Path, recorded: Sequence[Golden]) -> None:
    """Write golden requests into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    index = []
    for golden in recorded:
        request, answer = golden.request, golden.answer
        kind = request.headers["Content-Type"]
        files = {
            "arguments": (f"{golden.name}-arguments.exact", golden.arguments),
            "result": (f"{golden.name}-result.exact", golden.result),
            "request": (f"{golden.name}-request.{_suffix(kind)}", request.body),
            "response": (f"{golden.name}-response.{_suffix(answer.content_type)}", answer.body),
        }
        for name, data in files.values():
            (folder / name).write_bytes(data)
        index.append(
            {
                "name": golden.name,
                "path": request.url.removeprefix(BASE_URL),
                "headers": request.headers,
                "status": answer.status,
                "content_type": answer.content_type,
                "files": {key: name for key, (name, _) in files.items()},
            }
        )
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def command(recorded: Golden) -> str:
    """Return a shell command that sends a golden request to a server on this machine."""
    request = recorded.request
    headers = "".join(f' -H "{name}: {value}"' for name, value in request.headers.items())
    body = f"golden/{recorded.name}-request.{_suffix(request.headers['Content-Type'])}"
    return (
        f'curl -H "Authorization: Bearer $MLKIT_TOKEN"{headers} --data-binary @{body} '
        f'"http://127.0.0.1:8000{request.url.removeprefix(BASE_URL)}"'
    )


def _suffix(content_type: str) -> str:
    return _SUFFIXES.get(content_type.partition(";")[0], "bin")


def read(folder: Path) -> list[Golden]:
    """Read the golden requests of a folder.

    Raises:
        MlkitError: there are none, or a file is missing.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return [_read(folder, entry) for entry in index]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MlkitError(f"no golden requests: {error}", where=str(folder)) from None


def _read(folder: Path, entry: Mapping[str, Any]) -> Golden:
    data = {key: (folder / name).read_bytes() for key, name in entry["files"].items()}
    return Golden(
        entry["name"],
        data["arguments"],
        data["result"],
        PreparedRequest("POST", entry["path"], dict(entry["headers"]), data["request"]),
        HttpAnswer(entry["status"], entry["content_type"], data["response"]),
    )


def call(pipeline: Pipeline[..., Any], golden: Golden, modules: Mapping[str, str]) -> str | None:
    """Call a pipeline in this process; return what is different, None if nothing is."""
    exact = Exact(pipeline.graph, modules)
    result = pipeline(**exact.decode(golden.arguments))
    # What was kept went through the exact form once; so must this.
    returned = exact.decode(exact.encode_result(result))
    expected = exact.decode(golden.result)
    if same(returned, expected):
        return None
    return f"it returned {brief(returned)}, not {brief(expected)}"


def compare(expected: HttpAnswer, got: HttpAnswer) -> str | None:
    """Return how a response differs from the one that is expected; None if it does not."""
    if expected.status != got.status:
        detail = got.body[:200].decode("utf-8", "replace")
        return f"status {got.status}, not {expected.status}: {detail}"
    if expected.content_type != got.content_type:
        return f"content type {got.content_type}, not {expected.content_type}"
    left, right = _content(expected), _content(got)
    return None if same(left, right) else f"it responded {brief(right)}, not {brief(left)}"


def _content(answer: HttpAnswer) -> Any:
    kind = answer.content_type.partition(";")[0]
    if kind == "application/json":
        return json.loads(answer.body)
    if kind == "application/x-ndjson":
        return [json.loads(line) for line in answer.body.splitlines()]
    return answer.body


def send(url: str, token: str | None, recorded: Iterable[Golden]) -> dict[str, str | None]:
    """Send golden requests to a server; return how each response differs, by name.

    Args:
        url: of the server, with or without the path of the pipeline.
        token: bearer token; None for none.
        recorded: the golden requests.
    """
    import httpx2

    differences: dict[str, str | None] = {}
    with httpx2.Client(timeout=60.0) as client:
        for golden in recorded:
            path = golden.request.url
            base = url.rstrip("/").removesuffix(path.partition("?")[0])
            headers = dict(golden.request.headers)
            if token:
                headers["Authorization"] = f"Bearer {token}"
            try:
                response = client.post(base + path, headers=headers, content=golden.request.body)
            except httpx2.TransportError as error:
                differences[golden.name] = f"no response: {error}"
                continue
            differences[golden.name] = compare(golden.answer, _answer(response))
    return differences

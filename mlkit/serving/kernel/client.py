"""Client of a served pipeline: encodes requests and decodes responses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from mlkit.define.arguments import Arguments
from mlkit.define.border import plain, port
from mlkit.define.exact import MEDIA_TYPE as EXACT
from mlkit.define.exact import PROCESS_KEY, Exact
from mlkit.define.graph import Graph
from mlkit.errors import InputError, RemoteStepError, RequestError
from mlkit.execute.priority import Priority
from mlkit.serving.http.payload import EXACT_HEADER
from mlkit.serving.http.stream import FRAMES, LINES, read_frames, read_lines
from mlkit.serving.http.terms import PRIORITY

__all__ = ["Codec", "PreparedRequest", "authorization"]

MAX_QUERY = 2_000
"""Characters of a query that every proxy accepts."""


@dataclass(frozen=True)
class PreparedRequest:
    """An encoded request."""

    method: str
    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Codec:
    """Encodes arguments of a pipeline as requests and decodes responses.

    Args:
        graph: the pipeline.
        exact_key: the app's secret for the exact form; by default that of apps in this process.
    """

    def __init__(self, graph: Graph, exact_key: str = PROCESS_KEY) -> None:
        self.graph = graph
        self.arguments = Arguments(graph)
        self.ports = self.arguments.ports
        self.returns = port(graph.returns)
        self.items = port(graph.items) if graph.streams else None
        self._exact = Exact(graph)
        self._exact_key = exact_key

    def request(
        self,
        url: str,
        token: str | None,
        arguments: Mapping[str, Any],
        *,
        stream: bool = False,
        priority: Priority = Priority.INTERACTIVE,
    ) -> PreparedRequest:
        """Encode arguments in the exact form, and ask for the result, or its items, in it.

        Raises:
            InputError: an argument is unknown, or a part of it has no exact form.
        """
        self._check(arguments)
        headers = {
            **authorization(token),
            EXACT_HEADER.decode(): self._exact_key,
            "Accept": FRAMES if stream else EXACT,
            "Content-Type": EXACT,
        }
        if priority is not Priority.INTERACTIVE:
            headers[PRIORITY] = priority.name.lower()
        return PreparedRequest("POST", url, headers, self._exact.encode(dict(arguments)))

    def public_request(
        self, url: str, token: str | None, arguments: Mapping[str, Any]
    ) -> PreparedRequest:
        """Encode arguments as other clients do, in the cheapest way.

        A single upload is a raw body where the server takes one, with short scalar fields in a
        query; other uploads are multipart; everything else is JSON.

        Raises:
            InputError: an argument is unknown.
        """
        self._check(arguments)
        headers = authorization(token)
        if packed := self.returns.packed_type:
            headers["Accept"] = packed
        if self.items is not None:
            headers["Accept"] = LINES
        files = {n: v for n, v in arguments.items() if self._is_file(n, v)}
        fields = {n: v for n, v in arguments.items() if n not in files}
        if not files:
            body = self.json_body(fields)
            return PreparedRequest(
                "POST", url, {**headers, "Content-Type": "application/json"}, body
            )
        (name, value), *more = files.items()
        short = all(isinstance(v, (str, int, float)) for v in fields.values())
        if not more and short and name == self.arguments.raw:
            data, kind = self._bytes(name, value)
            texts = {self.arguments.keys[n]: _text(v) for n, v in fields.items()}
            query = "?" + urlencode(texts) if fields else ""
            if len(query) < MAX_QUERY:
                return PreparedRequest("POST", url + query, {**headers, "Content-Type": kind}, data)
        return self._multipart(url, headers, fields, files)

    def json_body(self, arguments: Mapping[str, Any]) -> bytes:
        """Encode arguments as the JSON body of a request; files are data URLs."""
        content = {self.arguments.keys[n]: self.ports[n].to_json(v) for n, v in arguments.items()}
        return json.dumps(content, default=plain).encode()

    def _check(self, arguments: Mapping[str, Any]) -> None:
        unknown = set(arguments) - set(self.ports)
        if unknown:
            raise InputError(f"unknown argument {', '.join(sorted(unknown))}")

    def _is_file(self, name: str, value: Any) -> bool:
        files = self.arguments.files.get(name)
        if files is None or value is None:
            return False
        values = value if files.many else [value]
        if files.port.url and any(isinstance(v, str) for v in values):
            return False
        return bool(values) and all(v != b"" for v in values if isinstance(v, bytes))

    def _bytes(self, name: str, value: Any) -> tuple[bytes, str]:
        to_bytes = self.arguments.files[name].port.to_bytes
        assert to_bytes is not None
        return to_bytes(value)

    def _multipart(
        self,
        url: str,
        headers: dict[str, str],
        fields: Mapping[str, Any],
        files: Mapping[str, Any],
    ) -> PreparedRequest:
        import httpx2

        parts = [
            (self.arguments.keys[name], (name, *self._bytes(name, item)))
            for name, value in files.items()
            for item in (value if self.arguments.files[name].many else [value])
        ]
        data = {
            self.arguments.keys[n]: v
            if isinstance(v, str)
            else json.dumps(self.ports[n].to_json(v), default=plain)
            for n, v in fields.items()
        }
        request = httpx2.Request("POST", url, headers=headers, data=data, files=parts)
        headers = {"Content-Type": request.headers["Content-Type"], **headers}
        return PreparedRequest("POST", url, headers, request.read())

    def sent(self, request: PreparedRequest) -> dict[str, Any] | None:
        """Decode the arguments of a request in the exact form; None for any other request."""
        if request.headers.get("Content-Type") != EXACT:
            return None
        arguments: dict[str, Any] = self._exact.decode(request.body)
        return arguments

    def result(self, body: bytes, media_type: str) -> Any:
        """Decode the result from the body of a successful response.

        Raises:
            RequestError: it streamed, and failed or broke off.
        """
        if media_type == EXACT:
            return self._exact.decode(body)
        if self.items is not None and media_type.startswith(LINES):
            return list(self._events(read_lines([body]), self.items.from_json))
        if media_type.startswith("application/json"):
            return self.returns.from_json(json.loads(body))
        assert self.returns.from_bytes is not None
        return self.returns.from_bytes(body)

    def streamed(self, chunks: Iterable[bytes]) -> Iterator[Any]:
        """Decode the items of a stream in the exact form as its body arrives.

        Raises:
            RequestError: it failed or broke off.
        """
        return self._events(read_frames(chunks), self._exact.decode)

    def _events(
        self, events: Iterable[tuple[str, Any]], decode: Callable[[Any], Any]
    ) -> Iterator[Any]:
        for name, data in events:
            if name == "end":
                return
            if name == "problem":
                document = json.loads(data) if isinstance(data, bytes) else data
                raise self.error(document["status"], json.dumps(document).encode())
            yield decode(data)
        raise RequestError("the stream broke off", where=self.graph.name, fix="check app.status()")

    def error(self, status: int, body: bytes) -> RequestError:
        """Decode the error from an error response."""
        try:
            document = json.loads(body)
            detail = str(document["detail"])
        except (ValueError, KeyError, TypeError):
            document, detail = {}, body[:200].decode("utf-8", "replace") or "no details"
        failure = document.get("failure_id")
        kind = RemoteStepError if document.get("step") else RequestError
        return kind(
            detail,
            http_status=status,
            problem=document,
            where=f"{self.graph.name} responded with {status}",
            fix=f"see the traceback in app.failures, id {failure}"
            if failure
            else _FIXES.get(status),
        )


_FIXES = {
    413: "deploy with a higher limit: deploy(..., limits=Limits(max_body_bytes=...)), "
    "from mlkit.serving import Limits",
}


def authorization(token: str | None) -> dict[str, str]:
    """Return the header with the token of an app."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

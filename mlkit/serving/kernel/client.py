"""Client of a served pipeline: encodes requests and decodes responses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from mlkit.define.border import Port, plain, port
from mlkit.define.graph import Graph
from mlkit.errors import InputError, RequestError

__all__ = ["Codec", "PreparedRequest"]


@dataclass(frozen=True)
class PreparedRequest:
    """An encoded request."""

    method: str
    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Codec:
    """Encodes arguments of a pipeline as requests and decodes responses."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.ports = {p.name: port(p.type) for p in graph.parameters}
        self.returns = port(graph.returns)

    def request(self, url: str, token: str | None, arguments: Mapping[str, Any]) -> PreparedRequest:
        """Encode arguments in the cheapest way.

        A single upload, with scalar fields, is a raw body with a query; several uploads are
        multipart; everything else is JSON.

        Raises:
            InputError: an argument is unknown.
        """
        unknown = set(arguments) - set(self.ports)
        if unknown:
            raise InputError(f"unknown argument {', '.join(sorted(unknown))}")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if packed := self.returns.packed_type:
            headers["Accept"] = packed
        files = {n: v for n, v in arguments.items() if self._is_file(self.ports[n], v)}
        fields = {n: v for n, v in arguments.items() if n not in files}
        if not files:
            content = {n: self.ports[n].to_json(v) for n, v in fields.items()}
            body = json.dumps(content, default=plain).encode()
            return PreparedRequest(
                "POST", url, {**headers, "Content-Type": "application/json"}, body
            )
        if len(files) == 1 and all(isinstance(v, (str, int, float)) for v in fields.values()):
            (name, value), *_ = files.items()
            data, kind = self._bytes(name, value)
            query = "?" + urlencode({n: _text(v) for n, v in fields.items()}) if fields else ""
            return PreparedRequest("POST", url + query, {**headers, "Content-Type": kind}, data)
        return self._multipart(url, headers, fields, files)

    def _is_file(self, port: Port, value: Any) -> bool:
        return port.to_bytes is not None and not (port.url and isinstance(value, str))

    def _bytes(self, name: str, value: Any) -> tuple[bytes, str]:
        to_bytes = self.ports[name].to_bytes
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

        parts = {n: (n, *self._bytes(n, v)) for n, v in files.items()}
        data = {
            n: v if isinstance(v, str) else json.dumps(self.ports[n].to_json(v), default=plain)
            for n, v in fields.items()
        }
        request = httpx2.Request("POST", url, headers=headers, data=data, files=parts)
        headers = {"Content-Type": request.headers["Content-Type"], **headers}
        return PreparedRequest("POST", url, headers, request.read())

    def result(self, body: bytes, media_type: str) -> Any:
        """Decode the result from the body of a successful response."""
        if media_type.startswith("application/json"):
            return self.returns.from_json(json.loads(body))
        assert self.returns.from_bytes is not None
        return self.returns.from_bytes(body)

    def error(self, status: int, body: bytes) -> RequestError:
        """Decode the error from an error response."""
        try:
            document = json.loads(body)
            detail = str(document["detail"])
        except (ValueError, KeyError, TypeError):
            document, detail = {}, body[:200].decode("utf-8", "replace") or "no details"
        failure = document.get("failure_id")
        return RequestError(
            detail,
            http_status=status,
            problem=document,
            where=f"{self.graph.name} responded with {status}",
            fix=f"see the traceback in app.failures, id {failure}" if failure else None,
        )


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

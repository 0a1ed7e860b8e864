"""Parsing of requests: JSON, a form, a raw body or the exact form to arguments by name."""

from __future__ import annotations

import asyncio
import hmac
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from mlkit.define import exact
from mlkit.define.arguments import Arguments, WebURL
from mlkit.define.border import Port
from mlkit.define.exact import PROCESS_KEY, Exact
from mlkit.define.fresh import fresh
from mlkit.define.graph import Graph
from mlkit.define.schema import own_error
from mlkit.errors import InputError, PayloadTooLarge, UnsupportedMedia
from mlkit.fetch import fetch
from mlkit.serving.http.decompression import decompressor
from mlkit.serving.http.observer import Headers, length_of
from mlkit.serving.http.problem import errors_of

__all__ = [
    "EXACT_HEADER",
    "Collected",
    "Invalid",
    "Payloads",
    "decode_upload",
    "from_route",
    "invalid",
]

JSON = "application/json"
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")

EXACT_HEADER = b"x-mlkit-exact"
"""Header with the key of the exact form."""


class Invalid(InputError):
    """A request that fails validation; ``errors`` lists the invalid fields."""

    def __init__(self, message: str, errors: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.errors = errors


class Payloads:
    """Parses the requests of a pipeline.

    Attributes:
        arguments: the pipeline's parameters and the schema of its JSON body.
        max_body_bytes: maximum length of a body in bytes.
        exact_key: secret with which a request in the exact form is accepted.
    """

    def __init__(self, graph: Graph, max_body_bytes: int, exact_key: str = PROCESS_KEY) -> None:
        self.arguments = Arguments(graph)
        self.max_body_bytes = max_body_bytes
        self._exact = Exact(graph)
        self._exact_key = exact_key.encode()
        parameters = self.arguments.parameters
        self._required = {name for name, p in parameters.items() if p.required}

    def is_exact(self, headers: Headers) -> bool:
        """Whether a request has the key of the exact form."""
        return hmac.compare_digest(headers.get(EXACT_HEADER, b""), self._exact_key)

    async def read(self, request: Request, headers: Headers) -> dict[str, Any]:
        """Read the arguments of a request, by name.

        Raises:
            Invalid: a field is missing or has the wrong type.
            UnsupportedMedia: the content type or the content encoding is not supported.
            PayloadTooLarge: the body exceeds the limit, decompressed if it is compressed.
        """
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        kind = content_type.partition(";")[0].strip().lower()
        if request._form is not None:  # a dependency of the user's application has read it
            return await self._from_form(request, b"")
        body = await self.body(request, headers)
        if kind == JSON or kind.endswith("+json"):
            return await self._from_json(body)
        if kind in FORMS and body:
            return await self._from_form(request, body)
        if kind == exact.MEDIA_TYPE and self.is_exact(headers):
            return self._from_exact(body)
        if any(_matches(kind, accepted) for accepted in self._accepted):
            if not body:
                raise Invalid("the body is empty")
            fields = request.query_params.multi_items()
            raw = self.arguments.keys[str(self.arguments.raw)]
            return await self._assemble(_by_name(fields), {raw: [body]})
        if not body:
            return await self._from_json(b"")
        raise UnsupportedMedia(
            "unsupported content type", expected=" or ".join(self._supported()), got=kind or "none"
        )

    @property
    def _accepted(self) -> list[str]:
        """Content types of a raw body."""
        files, raw = self.arguments.files, self.arguments.raw
        return [] if raw is None else files[raw].port.media_types

    def _supported(self) -> list[str]:
        return [JSON, *self._accepted, *(["multipart/form-data"] if self.arguments.files else [])]

    async def body(self, request: Request, headers: Headers) -> bytes:
        """Read the body of a request, decompressed.

        Raises:
            PayloadTooLarge: it exceeds the limit.
            Invalid: it cannot be decompressed.
        """
        # Starlette's RequestBodyLimitMiddleware responds in plain text, and takes 7 µs, this one 3.
        compressed = decompressor(headers.get(b"content-encoding"))
        limit = self.max_body_bytes
        if length_of(headers) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        size = 0
        try:
            async for part in request.stream():
                if compressed is not None:
                    part = compressed.decompress(part, limit - size + 1)
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
                parts.append(part)
            if compressed is not None:
                compressed.end()
        except HTTPException as error:
            if error.status_code == 408:
                raise
            # The user's FastAPI application has a limit of its own.
            raise PayloadTooLarge("the body exceeds the application's limit") from error
        except zlib.error as error:
            raise Invalid(f"the body cannot be decompressed: {error}") from None
        return b"".join(parts)

    def _from_exact(self, body: bytes) -> dict[str, Any]:
        arguments = self._exact.decode(body)
        if not isinstance(arguments, dict) or not arguments.keys() <= self.arguments.ports.keys():
            raise Invalid("not the arguments of this pipeline")
        missing = self._required - arguments.keys()
        if missing:
            raise Invalid(f"missing arguments: {', '.join(sorted(missing))}")
        return arguments

    async def _from_json(self, body: bytes) -> dict[str, Any]:
        try:
            arguments: dict[str, Any] = self.arguments.schema.parse(body or b"{}")
        except ValidationError as error:
            raise own_error(error) or invalid(error) from None
        return await self._fetched(arguments)

    async def _from_form(self, request: Request, body: bytes) -> dict[str, Any]:
        request._body = body
        uploads: dict[str, list[bytes]] = {}
        fields: list[tuple[str, str]] = []
        try:
            async with request.form(max_part_size=self.max_body_bytes) as form:
                for name, value in form.multi_items():
                    if not isinstance(value, UploadFile):
                        fields.append((name, value))
                    elif value.filename or value.size:  # else a file input that was left empty
                        await value.seek(0)
                        uploads.setdefault(name, []).append(await value.read())
        except (HTTPException, MultiPartException) as error:
            reason = error.detail if isinstance(error, HTTPException) else error.message
            raise Invalid(f"the form cannot be parsed: {reason}") from None
        return await self._assemble(_by_name(fields), uploads)

    async def _assemble(
        self, fields: Mapping[str, list[str]], uploads: Mapping[str, list[bytes]]
    ) -> dict[str, Any]:
        """Validate the texts and files of a form or a query, by name."""
        collected = Collected()
        for key, texts in fields.items():
            name = self.arguments.names.get(key)
            if name is not None and not self._left_empty(name, texts):
                collected.load(key, name, partial(self._from_texts, name, texts))
        for key, files in uploads.items():
            name = self.arguments.names.get(key, "")
            problem = self._problem_of(name, files)
            if problem:
                collected.refuse(key, problem, "file")
                continue
            upload = self.arguments.files[name]
            try:
                decoded = [await decode_upload(upload.port, file) for file in files]
            except InputError as error:
                collected.add(key, error)
                continue
            if upload.many:  # or a tuple, or a set
                collected.load(key, name, partial(self.arguments.ports[name].from_json, decoded))
            else:
                collected.arguments[name] = decoded[0]
        for key, name in self.arguments.names.items():
            if name in self._required and key not in fields and key not in uploads:
                collected.refuse(key, "Field required", "missing")
        return await self._gathered(collected)

    def _left_empty(self, name: str, texts: Sequence[str]) -> bool:
        """Whether an input of an HTML form was left empty, which then sends an empty text."""
        if name in self._required or texts != [""]:
            return False
        try:
            self.arguments.ports[name].from_json("")
        except InputError:  # no date, number or file
            return True
        return not self.arguments.is_text(name)

    def _problem_of(self, name: str, files: Sequence[bytes]) -> str:
        """Why the files of a field are invalid; "" if they are valid."""
        upload = self.arguments.files.get(name)
        if upload is None:
            return "not a file"
        if len(files) > 1 and not upload.many:
            return "more than one file"
        return "" if all(files) else "the file is empty"

    async def _gathered(self, collected: Collected) -> dict[str, Any]:
        """The arguments that were collected, with their URLs fetched."""
        if collected.errors:
            raise _with(collected.errors)
        return await self._fetched(collected.arguments)

    async def _fetched(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Fetch the URLs that were passed for uploads."""
        for name, value in arguments.items():
            if isinstance(value, WebURL):
                arguments[name] = await decode_upload(
                    self.arguments.ports[name], await fetch(value)
                )
        return arguments

    def _from_texts(self, name: str, texts: Sequence[str]) -> Any:
        """Value of a field from its texts in a form or a query.

        A field that is repeated is a list; of any other type, the last text counts. A single text
        is taken as it is if the type, or an item of its lists, allows text; else as JSON, else as
        the only item of a list.
        """
        target, text = self.arguments.field(name), texts[-1]
        looks_like_json = text.lstrip()[:1] in ("{", "[")
        if self.arguments.is_list(name) and (len(texts) > 1 or not looks_like_json):
            return target.from_json(list(texts))
        as_text, as_json = partial(target.from_json, text), partial(target.parse, text.encode())
        first, second = (as_text, as_json) if self.arguments.is_text(name) else (as_json, as_text)
        if self.arguments.is_list_of_text(name):
            first, second, looks_like_json = partial(target.from_json, [text]), as_json, False
        try:
            return first()
        except (ValidationError, InputError) as error:
            try:
                return second()
            except (ValidationError, InputError) as other:
                in_order = (first is as_json) == looks_like_json
                chosen = error if in_order else other
                raise chosen from chosen.__cause__


class Collected:
    """Arguments of a request, and the errors of those that are invalid."""

    def __init__(self) -> None:
        self.arguments: dict[str, Any] = {}
        self.errors: list[dict[str, Any]] = []

    def load(self, key: str, name: str, value: Callable[[], Any]) -> None:
        """Add an argument, or its errors."""
        try:
            self.arguments[name] = value()
        except (ValidationError, InputError) as error:
            self.add(key, error)

    def add(self, key: str, error: ValidationError | InputError) -> None:
        """Add the errors of an argument; raises those that have a status of their own."""
        invalid = error if isinstance(error, ValidationError) else error.__cause__
        if isinstance(invalid, ValidationError):
            if (own := own_error(invalid)) is not None:
                raise own
            details = invalid.errors(include_url=False, include_input=False)
            self.errors += [
                {**detail, "loc": ["body", key, *detail["loc"][1:]]}
                for detail in errors_of(details, "body")
            ]
        elif isinstance(error, InputError) and error.status == InputError.status:
            self.refuse(key, error.what, "value_error")
        else:
            raise error

    def refuse(self, key: str, message: str, kind: str) -> None:
        """Add an error."""
        self.errors.append({"loc": ["body", key], "msg": message, "type": kind})


async def decode_upload(target: Port, data: bytes) -> Any:
    """Decode a file that was uploaded, in a thread."""
    assert target.from_bytes is not None
    if target.type is bytes or target.url:
        return target.from_bytes(data)
    return await asyncio.to_thread(target.from_bytes, data)


def _is_web_url(value: Any) -> bool:
    return isinstance(value, str) and value.lower().startswith(("http://", "https://"))


async def from_route(target: Port, value: Any) -> Any:
    """Convert a value that a route of the user's passes to a pipeline; text is never a path.

    Data that can change is copied: it remains the route's, as values do that cross HTTP.

    Raises:
        InputError: the value is invalid.
    """
    if target.from_bytes is not None:
        if isinstance(value, (bytes, bytearray, memoryview)):
            return await decode_upload(target, bytes(value))
        if _is_web_url(value) and not target.url:
            return await decode_upload(target, await fetch(value))
    own = target.pydantic is None
    local = own and not isinstance(value, str)
    return fresh(target.local(value) if local else target.from_json(value))


def _by_name(fields: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for name, text in fields:
        texts.setdefault(name, []).append(text)
    return texts


def _matches(kind: str, pattern: str) -> bool:
    return kind == pattern or (pattern.endswith("/*") and kind.startswith(pattern[:-1]))


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge("the body is too large", expected=f"at most {limit:,} bytes")


def invalid(error: ValidationError) -> Invalid:
    """Return the error of a request that does not validate."""
    return _with(errors_of(error.errors(include_url=False, include_input=False), "body"))


def _with(errors: list[dict[str, Any]]) -> Invalid:
    first = errors[0]
    where = ".".join(map(str, first["loc"][1:])) or "body"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Invalid(f"{where}: {first['msg']}{more}", errors)

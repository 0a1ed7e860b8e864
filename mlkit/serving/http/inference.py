"""The Open Inference Protocol (v2), from the same types as the pipelines' own routes.

Each argument is a tensor, and so is the result, which is named ``output``. Numbers, booleans and
texts are tensors of one element, lists of them and arrays have their shape, files are ``BYTES``;
what no tensor can hold is ``BYTES`` of JSON. Metadata tell which is which by ``content_type``.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias

import numpy as np
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Send

from mlkit import __version__
from mlkit.define.arguments import Files
from mlkit.define.border import Port
from mlkit.define.port import json_text
from mlkit.define.registry import dtype_of
from mlkit.errors import InputError
from mlkit.serving.http import problem
from mlkit.serving.http.form import without_null
from mlkit.serving.http.lifecycle import Ready
from mlkit.serving.http.observer import Headers, number_of
from mlkit.serving.http.payload import Collected, Invalid, Payloads, decode_upload, invalid
from mlkit.serving.http.results import Results
from mlkit.serving.http.tensors import (
    BINARY_HEADER,
    DATATYPES,
    InferRequest,
    datatype_of,
    encode_response,
    objects,
)

__all__ = ["OUTPUT", "TensorForm", "add_inference", "output_form"]

OUTPUT = "output"
"""Name of the tensor that is the result."""

Content: TypeAlias = Literal["array", "file", "files", "json", "list", "scalar"]
Handle: TypeAlias = Callable[[Request, Send], Awaitable[None]]

_REQUEST = "mlkit.infer"
"""Key of the ASGI scope: the request, once its body was read."""

_SCALARS = {"boolean": "BOOL", "integer": "INT64", "number": "FP64", "string": "BYTES"}
"""Datatypes by type of a JSON schema."""


_DEEPEST = 8


@dataclass(frozen=True)
class TensorForm:
    """How a value of one type is a tensor.

    Attributes:
        name: of the tensor.
        content: the kind of its values; a scalar is a tensor of one element.
        datatype: the datatype; ``FP64`` for arrays of any.
        shape: -1 for any length.
        content_type: of the elements.
        required: whether it must be given.
    """

    name: str
    content: Content
    datatype: str
    shape: tuple[int, ...]
    content_type: str
    required: bool = True

    @property
    def metadata(self) -> dict[str, Any]:
        """Its description for clients."""
        parameters: dict[str, Any] = {"content_type": self.content_type}
        if not self.required:
            parameters["optional"] = True
        return {
            "name": self.name,
            "datatype": self.datatype,
            "shape": list(self.shape),
            "parameters": parameters,
        }


def _form(
    name: str, target: Port, schema: Mapping[str, Any], files: Files | None, required: bool
) -> TensorForm:
    """The form of a type, by its port and its JSON schema."""
    form = partial(TensorForm, name, required=required)
    if files is not None and files.port.packed_type is None:
        content: Content = "files" if files.many else "file"
        return form(content, "BYTES", (-1 if files.many else 1,), files.port.media_types[0])
    if target.packed_type == "application/x-npy":
        return form("array", datatype_of(dtype_of(target.type)) or "FP64", (-1,), "np")
    depth = 0
    definitions = schema.get("$defs", {})
    bare = without_null(schema, definitions)
    nullable = False
    while isinstance(bare.get("items"), Mapping) and depth < _DEEPEST:  # a list may hold itself
        items = bare["items"]
        nullable = nullable or {"type": "null"} in items.get("anyOf", ())
        bare, depth = without_null(items, definitions), depth + 1
    datatype = _SCALARS.get(str(bare.get("type")))
    if nullable and datatype != "FP64":  # where null is NaN
        datatype = None
    if datatype is None or target.packed_type is not None:
        return form("json", "BYTES", (1,), "application/json")
    kind = "text/plain" if datatype == "BYTES" else "np"
    if depth:
        return form("list", datatype, (-1,) * depth, kind)
    return form("scalar", datatype, (1,), kind)


def output_form(target: Port) -> TensorForm:
    """Return the form of a result.

    Lists of lists are JSON, as they may be ragged, and so is what may be None.
    """
    files = Files(target, many=False) if target.upload and not target.url else None
    form = _form(OUTPUT, target, target.output_schema, files, True)
    nullable = type(None) in typing.get_args(target.type)
    if nullable or (form.content == "list" and len(form.shape) > 1):
        return TensorForm(OUTPUT, "json", "BYTES", (1,), "application/json")
    return form


class _TensorPayloads(Payloads):
    """Reads requests of the protocol."""

    def __init__(self, payloads: Payloads) -> None:
        self.arguments = payloads.arguments
        self.max_body_bytes = payloads.max_body_bytes

    @cached_property
    def forms(self) -> dict[str, TensorForm]:
        """The forms of the arguments, by their names in requests."""
        return {
            key: _form(
                key,
                self.arguments.ports[name],
                self.arguments.ports[name].schema,
                self.arguments.files.get(name),
                self.arguments.parameters[name].required,
            )
            for key, name in self.arguments.names.items()
        }

    def is_exact(self, headers: Headers) -> bool:
        """Tensors are no exact form."""
        return False

    async def read(self, request: Request, headers: Headers) -> dict[str, Any]:
        """Read the arguments of a request, by name.

        Raises:
            Invalid: a tensor is missing or invalid.
            PayloadTooLarge: the body exceeds the limit.
        """
        body = await self.body(request, headers)
        declared = headers.get(BINARY_HEADER.lower().encode())
        length = None if declared is None else number_of(declared)
        if declared is not None and length is None:
            raise Invalid(f"{BINARY_HEADER} is no number")
        try:
            infer = InferRequest(body, length)
        except ValidationError as error:
            raise invalid(error) from None
        request.scope[_REQUEST] = infer
        unknown = [o.name for o in infer.document.outputs if o.name != OUTPUT]
        if unknown:
            raise Invalid(f"there is no output {unknown[0]!r}: the only one is {OUTPUT!r}")
        collected = Collected()
        for key, tensor in infer.tensors.items():
            await self._load(collected, key, tensor)
        for key, form in self.forms.items():
            if form.required and key not in infer.tensors:
                collected.refuse(key, "Field required", "missing")
        return await self._gathered(collected)

    async def _load(self, collected: Collected, key: str, tensor: Any) -> None:
        form = self.forms.get(key)
        if form is None:
            collected.refuse(key, "there is no such input", "extra_forbidden")
            return
        name = self.arguments.names[key]
        try:
            value = _value(form, tensor)
            if form.content in ("file", "files"):
                values = [await self._file(name, element) for element in value]
                value = values if form.content == "files" else values[0]
        except InputError as error:
            collected.add(key, error)
            return
        target = self.arguments.field(name)
        if form.content == "file":
            collected.arguments[name] = value
        elif form.content == "json":
            collected.load(key, name, partial(target.parse, value))
        else:
            collected.load(key, name, partial(target.from_json, value))

    async def _file(self, name: str, element: Any) -> Any:
        files = self.arguments.files[name]
        if isinstance(element, bytes):
            return await decode_upload(files.port, element)
        # JSON has texts only: a file is in a data: URL there, or at another URL.
        target = files.port if files.many else self.arguments.field(name)
        return target.from_json(element)


def _value(form: TensorForm, tensor: Any) -> Any:
    """The content of a tensor: an array, a scalar, a list, the bytes of JSON, or files.

    Raises:
        InputError: its datatype or its shape is not that of the form.
    """
    is_bytes = tensor.dtype == object
    if is_bytes != (form.datatype == "BYTES"):
        raise InputError(f"the datatype is not {form.datatype}")
    if form.content == "array":
        return tensor
    if form.content in ("scalar", "json", "file") and tensor.size != 1:
        raise InputError(f"one element is expected, not {tensor.size:,}")
    if form.content in ("file", "files"):
        return tensor.ravel().tolist()
    if form.content == "json":
        (element,) = tensor.ravel()
        return element.encode() if isinstance(element, str) else element
    try:
        texts = np.vectorize(_text, otypes=[object])(tensor) if is_bytes else tensor
    except UnicodeDecodeError:
        raise InputError("the text is not UTF-8") from None
    return texts.tolist() if form.content == "list" else texts.ravel().tolist()[0]


def _text(element: Any) -> str:
    return element if isinstance(element, str) else element.decode()


class _TensorResults(Results):
    """Encodes the result of one request; made for each, since it depends on the request.

    Attributes:
        scope: the scope of the request.
    """

    def __init__(self, model: _Model, scope: Mapping[str, Any]) -> None:
        self.items = None
        self.model = model
        self.scope = scope

    def preferred(self, accept: str) -> str:
        """Return the only content type: others are in the request itself."""
        return "application/json"

    def response(self, value: Any, accept: str) -> Response:
        """Return the response with a result."""
        infer: InferRequest = self.scope[_REQUEST]
        binary = infer.wants_binary(OUTPUT)
        document = {"model_name": self.model.name, "model_version": self.model.version}
        if infer.document.id:
            document["id"] = infer.document.id
        tensor = _tensor(self.model.output, self.model.returns, value, binary)
        body, headers = encode_response(document, OUTPUT, tensor, binary=binary)
        return Response(body, headers=headers)


def _tensor(form: TensorForm, target: Port, value: Any, binary: bool) -> Any:
    """A result as an array of its form."""
    if form.content == "array":
        return np.asarray(value)
    if form.content == "file":  # JSON has texts only
        pack = target.to_bytes if binary else None
        return objects([target.to_json(value) if pack is None else pack(value)[0]])
    text = target.to_text(value)
    if form.content == "json":
        return objects([text.decode()])
    document = json.loads(text)
    elements = document if form.content == "list" else [document]
    if form.datatype == "BYTES":
        return objects(elements)
    return np.asarray(elements, DATATYPES[form.datatype])  # null is NaN


@dataclass
class _Model:
    """A pipeline as the protocol sees it."""

    name: str
    version: str
    ready: Ready
    payloads: _TensorPayloads
    returns: Port

    @cached_property
    def output(self) -> TensorForm:
        return output_form(self.returns)

    @property
    def metadata(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": "mlkit",
            "inputs": [form.metadata for form in self.payloads.forms.values()],
            "outputs": [self.output.metadata],
        }

    async def infer(self, request: Request, send: Send) -> None:
        send = problem.converted(send, _as_error)
        pipeline = self.ready()
        if pipeline is None:
            response = problem.answer(503, "not ready yet", headers={"Retry-After": "1"})
            await response(request.scope, request.receive, send)
            return
        await pipeline.answer(request, send, self.payloads, _TensorResults(self, request.scope))


def _as_error(status: int, text: str) -> tuple[int, bytes]:
    """An error of the protocol, which has status 400 for validation errors."""
    return 400 if status == 422 else status, json_text({"error": text})


def add_inference(
    own: FastAPI,
    pipelines: Mapping[str, tuple[Payloads, Results, Ready]],
    version: str,
    exchange: Callable[[Handle, Request], Response],
) -> None:
    """Add the routes of the protocol.

    Args:
        own: application to add them to.
        pipelines: by name.
        version: the app's version.
        exchange: returns a response that has a function handle the request while it is sent.
    """
    models = {
        name: _Model(
            name,
            version or "1",
            ready,
            _TensorPayloads(payloads),
            results.returns,
        )
        for name, (payloads, results, ready) in pipelines.items()
    }

    def found(name: str, version: str | None) -> _Model | None:
        model = models.get(name)
        return model if model is not None and version in (None, model.version) else None

    def add(path: str, method: str, respond: Callable[[_Model, Request], Response]) -> None:
        async def route(request: Request) -> Response:
            parts = request.path_params
            model = found(parts["name"], parts.get("version"))
            return _missing(parts) if model is None else respond(model, request)

        for versions in ("", "/versions/{version}"):
            own.add_route(
                f"/v2/models/{{name}}{versions}{path}", route, [method], include_in_schema=False
            )

    async def server(request: Request) -> Response:
        return JSONResponse(
            {"name": "mlkit", "version": __version__, "extensions": ["binary_tensor_data"]}
        )

    async def live(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> Response:
        return _readiness(all(model.ready() is not None for model in models.values()))

    for path, route in (("", server), ("/health/live", live), ("/health/ready", ready)):
        own.add_route(f"/v2{path}", route, ["GET"], include_in_schema=False)
    add("", "GET", lambda model, _: JSONResponse(model.metadata))
    add("/ready", "GET", lambda model, _: _readiness(model.ready() is not None, name=model.name))
    add("/infer", "POST", lambda model, request: exchange(model.infer, request))


def _readiness(ready: bool, **more: str) -> Response:
    return JSONResponse({**more, "ready": ready}, 200 if ready else 503)


def _missing(parts: Mapping[str, str]) -> Response:
    version = f" in version {parts['version']!r}" if "version" in parts else ""
    return JSONResponse({"error": f"there is no model {parts['name']!r}{version}"}, 404)

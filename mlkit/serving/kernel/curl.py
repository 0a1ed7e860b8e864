"""Shell commands that send a request to an app."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlkit.define.border import Port, plain
from mlkit.execute.local import localise_arguments
from mlkit.serving.kernel.client import Codec
from mlkit.serving.kernel.example import example

__all__ = ["curl"]


def curl(
    codec: Codec, url: str, header: Path | None, arguments: Mapping[str, Any], folder: Path
) -> str:
    """Return a command that sends arguments; required ones that are missing get example values.

    Files are uploaded as parts of a form, everything else is JSON.

    Args:
        codec: the pipeline's.
        url: where to send the request.
        header: file with the header that authorizes it.
        arguments: by name; a path in place of an upload stays a path.
        folder: where uploads that are no files yet are written.

    Raises:
        InputError: an argument cannot be converted.
    """
    files, fields = _content(codec, arguments, folder)
    words = ["curl", "-sS"]
    if header is not None:
        words += ["-H", f"@{header}"]
    for name, path in files.items():
        words += ["-F", f'{name}=@"{path}"' if set(path) & set(';,"') else f"{name}=@{path}"]
    if files:
        for name, value in fields.items():
            text = value if isinstance(value, str) else json.dumps(value, default=plain)
            words += ["--form-string", f"{name}={text}"]
    else:
        body = json.dumps(fields, default=plain)
        words += ["-H", "Content-Type: application/json", "-d", body]
    return " ".join(map(shlex.quote, [*words, url]))


def _content(
    codec: Codec, arguments: Mapping[str, Any], folder: Path
) -> tuple[dict[str, str], dict[str, Any]]:
    """Paths of the files to upload, and all other arguments as JSON, by name."""
    files: dict[str, str] = {}
    fields: dict[str, Any] = {}
    for parameter in codec.graph.parameters:
        name, port = parameter.name, codec.ports[parameter.name]
        uploaded = port.to_bytes is not None and port.packed_type is None
        if name not in arguments:
            if parameter.required and uploaded:
                files[name] = "photo.jpg" if port.media_type.startswith("image/") else "data.bin"
            elif parameter.required:
                fields[name] = example(port.schema)
        elif (path := _path(port, arguments[name])) is not None:
            files[name] = path
        else:
            value = localise_arguments(codec.graph, {name: arguments[name]})[name]
            if uploaded and not _is_url(value):
                files[name] = _written(folder / f"{codec.graph.name}.{name}", port, value)
            else:
                fields[name] = port.to_json(value)
    return files, fields


def _written(file: Path, port: Port, value: Any) -> str:
    assert port.to_bytes is not None
    file.write_bytes(port.to_bytes(value)[0])
    return str(file)


def _path(port: Port, value: Any) -> str | None:
    """The path of a file to upload, if a value is one."""
    named = isinstance(value, (str, os.PathLike)) and not _is_url(value)
    return os.fspath(value) if named and port.to_bytes is not None else None


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and value.lower().startswith(("http://", "https://", "data:"))

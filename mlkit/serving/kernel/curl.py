"""Shell commands that send a request to an app."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic_core

from mlkit.define.border import Port, plain
from mlkit.define.example import example
from mlkit.execute.local import localise_arguments
from mlkit.serving.http.stream import EVENTS
from mlkit.serving.kernel.client import Codec

__all__ = ["curl"]

_EXAMPLES = {"audio": "sound.wav", "image": "photo.jpg", "video": "clip.mp4"}
"""Names of files that stand for missing uploads, by the first part of their content type."""


def curl(
    codec: Codec, url: str, header: Path | None, arguments: Mapping[str, Any], folder: Path
) -> str:
    """Return a command that sends arguments; required ones that are missing get example values.

    Files are uploaded as parts of a form, everything else is JSON. Items of a pipeline that streams
    are shown as they arrive.

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
    if codec.graph.streams:
        words += ["-N", "-H", f"Accept: {EVENTS}"]
    if header is not None:
        words += ["-H", f"@{header}"]
    for name, path in files.items():
        words += ["-F", f'{name}=@"{path}"' if set(path) & set(';,"') else f"{name}=@{path}"]
    if files:
        for name, value in fields.items():
            text = value if isinstance(value, str) else _json(value)
            words += ["--form-string", f"{name}={text}"]
    else:
        words += ["-H", "Content-Type: application/json", "-d", _json(fields)]
    return " ".join(map(shlex.quote, [*words, url]))


def _json(value: Any) -> str:
    # NaN and infinity are texts: JSON has no numbers for them.
    return pydantic_core.to_json(value, fallback=plain, inf_nan_mode="strings").decode()


def _content(
    codec: Codec, arguments: Mapping[str, Any], folder: Path
) -> tuple[dict[str, str], dict[str, Any]]:
    """Paths of the files to upload, and all other arguments as JSON, by their names in requests."""
    files: dict[str, str] = {}
    fields: dict[str, Any] = {}
    for parameter in codec.graph.parameters:
        name, port = parameter.name, codec.ports[parameter.name]
        key = codec.arguments.keys[name]
        uploaded = port.to_bytes is not None and port.packed_type is None
        if name not in arguments:
            if parameter.required and uploaded:
                files[key] = _EXAMPLES.get(port.media_type.partition("/")[0], "data.bin")
            elif parameter.required:
                fields[key] = example(port.schema)
        elif (path := _path(port, arguments[name])) is not None:
            files[key] = path
        else:
            value = localise_arguments(codec.graph, {name: arguments[name]})[name]
            if uploaded and not _is_url(value):
                files[key] = _written(folder / f"{codec.graph.name}.{name}", port, value)
            else:
                fields[key] = port.to_json(value)
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

"""Types whose values cannot leave their process, alone and inside others."""

import argparse
import array
import asyncio
import collections.abc as abc
import concurrent.futures
import contextvars
import dataclasses
import io
import logging
import mmap
import queue
import random
import re
import socket
import sqlite3
import subprocess
import threading
import types
import typing
import weakref
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import PIL.Image
import pydantic as p
import torch
from typing_extensions import TypedDict

from tests.zoo.ways import Entry

Lock = type(threading.Lock())


class Cursor:
    """A class without a form."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class HoldsLock(p.BaseModel):
    model_config = p.ConfigDict(arbitrary_types_allowed=True)
    lock: Lock  # type: ignore[valid-type]


class HoldsTensor(p.BaseModel):
    model_config = p.ConfigDict(arbitrary_types_allowed=True)
    name: str
    tensors: dict[str, torch.Tensor] = {}


class HoldsSeries(p.BaseModel):
    model_config = p.ConfigDict(arbitrary_types_allowed=True)
    values: pd.Series | None = None


class Deep(p.BaseModel):
    inner: list[HoldsTensor]


class Deferred(p.BaseModel):
    model_config = p.ConfigDict(defer_build=True)
    missing: "NotDefined"  # type: ignore[name-defined]  # noqa: F821


@dataclasses.dataclass
class HoldsFile:
    file: typing.BinaryIO
    name: str = ""


@dataclasses.dataclass
class HoldsSocket:
    more: tuple[int, socket.socket]


class RowOfLocks(TypedDict):
    lock: Lock  # type: ignore[valid-type]


class PairOfModules(NamedTuple):
    left: types.ModuleType
    right: int


class Raises:
    """A class whose hook for pydantic fails."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        raise RuntimeError("no schema")


TYPES = [
    Lock,
    type(threading.RLock()),
    threading.Event,
    threading.Condition,
    threading.Thread,
    threading.local,
    socket.socket,
    io.TextIOWrapper,
    io.BytesIO,
    typing.IO[bytes],
    typing.TextIO,
    typing.BinaryIO,
    mmap.mmap,
    sqlite3.Connection,
    subprocess.Popen,
    logging.Logger,
    types.ModuleType,
    types.FunctionType,
    types.MethodType,
    types.CodeType,
    types.GeneratorType,
    types.TracebackType,
    types.SimpleNamespace,
    types.MappingProxyType,
    abc.Callable,
    abc.Callable[[int], int],
    typing.Callable[..., str],
    abc.Coroutine[Any, Any, int],
    abc.Awaitable[int],
    abc.Iterable[str],
    abc.KeysView[str],
    asyncio.Queue,
    asyncio.Event,
    asyncio.Task,
    concurrent.futures.Future,
    queue.Queue,
    contextvars.ContextVar,
    weakref.ref,
    re.Match,
    random.Random,
    array.array,
    argparse.Namespace,
    Exception,
    ValueError,
    np.random.Generator,
    np.dtype,
    np.float32,
    pd.Series,
    pd.Index,
    pd.Timestamp,
    pd.Timedelta,
    PIL.Image.Image,
    torch.Tensor,
    torch.nn.Module,
    torch.device,
    torch.dtype,
    Cursor,
    Raises,
    HoldsLock,
    HoldsTensor,
    HoldsSeries,
    HoldsFile,
    HoldsSocket,
    RowOfLocks,
    PairOfModules,
    Deep,
    Deferred,
]

INSIDE = {
    "list[{}]": lambda inner: list[inner],
    "dict[str, {}]": lambda inner: dict[str, inner],
    "tuple[int, {}]": lambda inner: tuple[int, inner],
    "{} | None": lambda inner: inner | None,
    "int | {}": lambda inner: int | inner,
    "list[dict[str, {} | None]]": lambda inner: list[dict[str, inner | None]],
}


def _name(type_: Any) -> str:
    return f"{type_.__module__}.{type_.__qualname__}" if isinstance(type_, type) else str(type_)


ENTRIES = [
    *(Entry(f"{_name(T)}", T, refused=True) for T in TYPES),
    *(
        Entry(form.format(_name(T)), build(T), refused=True)
        for T in (Lock, socket.socket, torch.Tensor, pd.Series, types.ModuleType, Cursor, Deep)
        for form, build in INSIDE.items()
    ),
]

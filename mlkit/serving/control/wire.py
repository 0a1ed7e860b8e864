"""What a kernel and its session process say to each other: JSON lines over a Unix socket.

A call is one line ``{"call": name, ...}``. The answer is any number of ``{"progress": text}``
lines and then one of ``{"result": ...}`` or ``{"error": ...}``. Closing the connection before that
gives the call up. The socket lies in a folder that only this user can enter; code travels as files
in that folder, never over the socket.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from mlkit.errors import DeployError, SessionError, SessionTimeout

__all__ = ["SOCKET", "call", "serve"]

SOCKET = "control"
"""Name of the socket in a session's folder."""

LONGEST_CALL = 16 * 2**20


def call(
    folder: Path,
    name: str,
    *,
    on_progress: Callable[[str], None] = lambda text: None,
    timeout_s: float | None = None,
    **arguments: Any,
) -> Any:
    """Call the session in a folder and wait for its answer.

    Raises:
        SessionTimeout: it did not answer in time; it may well be there.
        SessionError: it is not there, or went away before it answered.
        DeployError: it answered with an error.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(folder / SOCKET))
            connection.sendall(json.dumps({"call": name, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                return _answer(lines, on_progress)
    except TimeoutError as error:
        raise SessionTimeout(
            f"the session process did not answer within {timeout_s:g} s",
            where=f"session {folder.name}",
            fix="try again: it may be busy, or its machine may",
        ) from error
    except OSError as error:
        raise _gone(folder) from error


def _answer(lines: Any, on_progress: Callable[[str], None]) -> Any:
    for line in lines:
        message = json.loads(line)
        if "progress" in message:
            on_progress(message["progress"])
        elif "error" in message:
            parts: Mapping[str, Any] = message["error"]
            raise DeployError(**parts)
        else:
            return message["result"]
    raise OSError("closed before it answered")


def _gone(folder: Path) -> SessionError:
    return SessionError(
        "the session process is not there any more",
        where=f"session {folder.name}",
        fix="deploy again: that starts a new one",
    )


async def serve(
    folder: Path, answer: Callable[[dict[str, Any]], AsyncIterator[dict[str, Any]]]
) -> asyncio.Server:
    """Listen in a session's folder.

    Args:
        folder: the session's.
        answer: an async generator of messages; it is closed when the caller goes away.
    """

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            if not line:
                return
            talk = asyncio.create_task(_talk(answer(json.loads(line)), writer))
            gone = asyncio.create_task(reader.read(1))
            await asyncio.wait({talk, gone}, return_when=asyncio.FIRST_COMPLETED)
            for task in (talk, gone):
                task.cancel()
            await asyncio.gather(talk, gone, return_exceptions=True)
        finally:
            writer.close()

    return await asyncio.start_unix_server(connected, str(folder / SOCKET), limit=LONGEST_CALL)


async def _talk(messages: AsyncIterator[dict[str, Any]], writer: asyncio.StreamWriter) -> None:
    async for message in messages:
        writer.write(json.dumps(message).encode() + b"\n")
        await writer.drain()

"""No form of URL reaches a canary inside, over real sockets."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from unittest.mock import patch

import aiohttp
import pytest

from benchmarks.hostile.urls import HARMLESS, HOSTILE, OUTSIDE, Form, Outcome, attempt, world


def fetched(form: Form) -> Outcome:
    async def main() -> Outcome:
        async with world() as inside:
            return await attempt(form, inside)

    return asyncio.run(main())


@pytest.mark.parametrize("form", HOSTILE, ids=lambda form: str(form)[:100])
def test_no_hostile_url_reaches_the_canary(form: Form) -> None:
    outcome = fetched(form)
    assert outcome.safe, outcome


@pytest.mark.parametrize("form", HARMLESS, ids=lambda form: str(form)[:100])
def test_a_harmless_url_is_fetched(form: Form) -> None:
    outcome = fetched(form)
    assert outcome.body == b"a picture", outcome.error


def test_the_canary_hears_whoever_is_let_in() -> None:
    """The guard is what keeps them out: without it, the canary is hit."""

    async def main() -> Counter[bool]:
        async with world() as inside:
            inside.public = lambda address: True  # type: ignore[method-assign]
            forms = [form for form in HOSTILE if "127.0.0.1:{port}/" in form.url][:20]
            return Counter([(await attempt(form, inside)).safe for form in forms])

    assert asyncio.run(main())[False] >= 5


def test_most_hostile_urls_are_refused_by_form_or_address() -> None:
    kinds = Counter(form.kind for form in HOSTILE)
    assert len(HOSTILE) >= 150
    assert len(HARMLESS) >= 30
    assert len(kinds) >= 10


@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/", "//[::1]:{port}/"])
def test_a_redirect_from_https_does_not_lead_inside(
    target: str, certificate: tuple[Path, Path]
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    trusting = ssl.create_default_context(cafile=certificate[0])

    async def main() -> Outcome:
        async with AsyncExitStack() as stack:
            inside = await stack.enter_async_context(world())
            location = target.replace("{port}", str(inside.port))

            async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                asked.append("secure")
                writer.write(f"HTTP/1.1 302 -\r\nLocation: {location}\r\n\r\n".encode())
                await writer.drain()
                writer.close()

            secure = await asyncio.start_server(redirect, OUTSIDE, 0, ssl=context)
            await stack.enter_async_context(secure)
            port = secure.sockets[0].getsockname()[1]
            form = Form("redirect", f"https://localhost.test:{port}/", ((OUTSIDE,),))
            trusting.check_hostname = False
            connector = partial(aiohttp.TCPConnector, ssl=trusting)
            with patch("aiohttp.TCPConnector", connector):
                return await attempt(form, inside)

    asked: list[str] = []
    outcome = asyncio.run(main())
    assert asked == ["secure"]
    assert outcome.safe, outcome
    assert outcome.body is None

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp.abc
import pytest
from aiohttp import web

from mlkit.errors import FetchError, InputError, PayloadTooLarge
from mlkit.fetch.downloader import Downloader, fetch

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
ALLOW = "MLKIT_DOWNLOAD_ALLOW"


class Names(aiohttp.abc.AbstractResolver):
    """A resolver that answers from a table; each look-up takes the next answer of a list."""

    def __init__(self, **table: list[str]) -> None:
        self.table = {name.replace("_", "."): list(answers) for name, answers in table.items()}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        answers = self.table.get(host)
        if answers is None:
            raise OSError(None, "no such name")
        address = answers.pop(0) if len(answers) > 1 else answers[0]
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [
            aiohttp.abc.ResolveResult(
                hostname=host, host=part, port=port, family=kind, proto=0, flags=0
            )
            for part in address.split("+")
        ]

    async def close(self) -> None: ...


@asynccontextmanager
async def server(answer: Answer, host: str = "127.0.0.1") -> AsyncIterator[tuple[int, list[str]]]:
    """Serve one answer to everything; gives the port, and the paths that were asked for."""
    asked: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return await answer(request)

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, host, 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    try:
        yield port, asked
    finally:
        await runner.cleanup()


async def give(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b"picture")


def get(url: str, answer: Answer = give, **options: Any) -> bytes:
    """Fetch a URL while a server on loopback listens; ``{port}`` in the URL is the server's."""

    async def main() -> bytes:
        async with server(answer) as (port, _):
            downloader = Downloader(**options)
            try:
                return await downloader.fetch(url.replace("{port}", str(port)))
            finally:
                await downloader.close()

    return asyncio.run(main())


@pytest.fixture
def allow_everything_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlkit.fetch.downloader.parse_allowed", lambda _: _Loopback())


class _Loopback(frozenset[tuple[str, int]]):
    def __contains__(self, place: object) -> bool:
        return isinstance(place, tuple) and place[0] == "127.0.0.1"


HOSTILE = [
    # loopback, spelt every way that some parser takes
    *("http://127.0.0.1:{port}/", "http://127.1:{port}/", "http://127.0.1:{port}/"),
    *("http://2130706433:{port}/", "http://0x7f000001:{port}/", "http://0x7f.0.0.1:{port}/"),
    *("http://0x7f.1:{port}/", "http://0177.0.0.1:{port}/", "http://017700000001:{port}/"),
    *("http://127.0.0.1.:{port}/", "http://127.000.000.001:{port}/", "http://127.8.8.8:{port}/"),
    *("http://0:{port}/", "http://0.0.0.0:{port}/", "http://localhost:{port}/"),
    *("http://LOCALHOST.:{port}/", "http://①②⑦.⓪.⓪.①:{port}/", "http://127。0。0。1:{port}/"),
    *("http://%31%32%37.0.0.1:{port}/", "http://1.1.1.1@127.0.0.1:{port}/"),
    *("http://127.0.0.1:{port}#@1.1.1.1/", "http://1.1.1.1 &@127.0.0.1:{port}/"),
    "http://127.0.0.1:{port}\\@1.1.1.1/",
    # the same in IPv6
    *("http://[::1]:{port}/", "http://[::]:{port}/", "http://[0:0:0:0:0:0:0:1]:{port}/"),
    *("http://[::ffff:127.0.0.1]:{port}/", "http://[::ffff:7f00:1]:{port}/"),
    *("http://[::127.0.0.1]:{port}/", "http://[64:ff9b::127.0.0.1]/", "http://[64:ff9b::a00:1]/"),
    *("http://[2002:7f00:1::]/", "http://[2001:0:7f00:1::]/", "http://[fe80::1%25lo]:{port}/"),
    *("http://[::ffff:0:127.0.0.1]/", "http://[fd00:ec2::254]/", "http://[ff02::1]/"),
    # other places inside
    *("http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.0.1/", "http://100.64.0.1/"),
    *("http://169.254.169.254/latest/meta-data/", "http://100.100.100.200/", "http://192.0.0.192/"),
    *("http://168.63.129.16/", "http://224.0.0.1/", "http://255.255.255.255/"),
    # names that lead inside
    *("http://private.test/", "http://metadata.test/", "http://six.test/", "http://mapped.test/"),
    "http://both.test:{port}/",
    # other schemes
    *("file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1:{port}/", "//127.0.0.1/"),
    *("unix:///var/run/docker.sock", "http:///path", "http://", "https://[::1", "http://a b/"),
]


@pytest.mark.parametrize("url", HOSTILE)
def test_no_form_of_address_leads_inside(url: str) -> None:
    async def main() -> None:
        names = Names(
            private_test=["10.1.2.3"],
            metadata_test=["169.254.169.254"],
            six_test=["fd00::1"],
            mapped_test=["::ffff:127.0.0.1"],
            both_test=["127.0.0.1+10.0.0.1"],
            localhost=["127.0.0.1"],
            localhost_=["127.0.0.1"],
        )
        async with server(give) as (port, asked):
            for downloader in (Downloader(total_s=2), Downloader(total_s=2, resolver=names)):
                with pytest.raises((InputError, FetchError)) as caught:
                    await downloader.fetch(url.replace("{port}", str(port)))
                assert not any(s in str(caught.value) for s in ("timed out", "connecting failed"))
                await downloader.close()
            assert asked == []

    asyncio.run(main())


def test_there_are_more_than_forty_five_of_them() -> None:
    assert len(set(HOSTILE)) > 45


def test_a_refused_address_is_named_neither_by_number_nor_as_open() -> None:
    with pytest.raises(FetchError, match="is not public") as caught:
        get("http://inside.test/secret?token=abc", resolver=Names(inside_test=["10.1.2.3"]))
    assert caught.value.status == 424
    text = str(caught.value)
    assert "http://inside.test/secret?..." in text
    assert "10.1.2.3" not in text
    assert "abc" not in text


def test_an_allowed_place_is_fetched_from(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> bytes:
        async with server(give) as (port, _):
            monkeypatch.setenv(ALLOW, f"example.org:1, 127.0.0.1:{port}")
            return await fetch(f"http://127.0.0.1:{port}/a.jpg")

    assert asyncio.run(main()) == b"picture"


def test_only_that_port_and_spelling_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with server(give) as (one, _), server(give) as (other, asked):
            monkeypatch.setenv(ALLOW, f"127.0.0.1:{one}")
            assert await fetch(f"http://127.0.0.1:{one}/") == b"picture"
            for url in (f"http://127.0.0.1:{other}/", f"http://localhost:{one}/"):
                with pytest.raises(FetchError, match="is not public"):
                    await fetch(url)
            assert asked == []

    asyncio.run(main())


def test_withdrawing_the_permission_holds_for_open_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with server(give) as (port, _):
            monkeypatch.setenv(ALLOW, f"127.0.0.1:{port}")
            await fetch(f"http://127.0.0.1:{port}/")
            monkeypatch.delenv(ALLOW)
            with pytest.raises(FetchError, match="is not public"):
                await fetch(f"http://127.0.0.1:{port}/")

    asyncio.run(main())


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:{port}/", "//localhost:{port}/", "http://10.0.0.1/"]
)
def test_a_redirect_from_an_allowed_place_does_not_lead_inside(
    monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    async def main() -> None:
        async with server(give) as (inside, asked):

            async def redirect(_: web.Request) -> web.StreamResponse:
                raise web.HTTPFound(target.replace("{port}", str(inside)))

            async with server(redirect) as (port, _):
                monkeypatch.setenv(ALLOW, f"127.0.0.1:{port}")
                with pytest.raises(FetchError, match="is not public"):
                    await fetch(f"http://127.0.0.1:{port}/")
            assert asked == []

    asyncio.run(main())


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "http://u:p@127.0.0.1/", "http://", "http://[::1"]
)
@pytest.mark.usefixtures("allow_everything_on_loopback")
def test_a_redirect_to_a_url_that_is_not_fetched_fails(target: str) -> None:
    async def redirect(_: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": target})

    with pytest.raises(FetchError):
        get("http://127.0.0.1:{port}/", redirect)


def test_a_name_that_changes_its_address_is_checked_again() -> None:
    """DNS rebinding: public while it is looked at, private while it is connected to."""

    async def main() -> None:
        names = Names(rebind_test=["1.1.1.1", "127.0.0.1"])
        async with server(give) as (port, asked):
            downloader = Downloader(resolver=names)
            await names.resolve("rebind.test")
            with pytest.raises(FetchError, match="is not public"):
                await downloader.fetch(f"http://rebind.test:{port}/")
            await downloader.close()
            assert asked == []

    asyncio.run(main())


def test_the_address_connected_to_is_the_one_that_was_checked() -> None:
    checked: list[str] = []

    def public(address: str) -> bool:
        checked.append(address)
        return True

    got = get("http://shop.test:{port}/", resolver=Names(shop_test=["127.0.0.1"]), public=public)
    assert got == b"picture"
    assert checked == ["127.0.0.1"]


@pytest.mark.usefixtures("allow_everything_on_loopback")
class TestAnswers:
    def test_redirects_are_followed_relative_ones_too(self) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            if request.path == "/b/c.jpg":
                return web.Response(body=b"there")
            raise web.HTTPMovedPermanently({"/": "/b/a.jpg", "/b/a.jpg": "c.jpg"}[request.path])

        assert get("http://127.0.0.1:{port}/", answer) == b"there"

    def test_endless_redirects_end(self) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            raise web.HTTPFound(f"{request.path}x")

        with pytest.raises(FetchError, match="too many redirects"):
            get("http://127.0.0.1:{port}/", answer)

    @pytest.mark.parametrize("status", [204, 206, 304, 404, 500])
    def test_another_status_than_200_is_named(self, status: int) -> None:
        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(status=status)

        with pytest.raises(FetchError) as caught:
            get("http://127.0.0.1:{port}/a.jpg", answer)
        assert f"got {status}" in str(caught.value)

    def test_a_large_body_is_refused_by_its_announced_length(self) -> None:
        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(body=b"x" * 2000)

        with pytest.raises(PayloadTooLarge, match="too large"):
            get("http://127.0.0.1:{port}/", answer, max_bytes=1999)
        assert len(get("http://127.0.0.1:{port}/", answer, max_bytes=2000)) == 2000

    def test_an_endless_body_is_cut_off(self) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            response.enable_chunked_encoding()
            await response.prepare(request)
            while True:
                await response.write(b"x" * 65536)

        with pytest.raises(PayloadTooLarge):
            get("http://127.0.0.1:{port}/", answer, max_bytes=300_000)

    def test_a_compressed_body_counts_as_what_it_becomes(self) -> None:
        bomb = gzip.compress(b"\0" * 30_000_000)
        assert len(bomb) < 100_000

        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

        with pytest.raises(PayloadTooLarge):
            get("http://127.0.0.1:{port}/", answer, max_bytes=1_000_000)

    def test_the_time_for_all_of_it_is_limited(self) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(100):
                await response.write(b"x")
                await asyncio.sleep(0.01)
            return response

        with pytest.raises(FetchError, match="timed out"):
            get("http://127.0.0.1:{port}/", answer, total_s=0.2)

    def test_a_connection_cut_short_is_an_error(self) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Length": "100"})
            await response.prepare(request)
            await response.write(b"half")
            request.transport.close()  # type: ignore[union-attr]
            return response

        with pytest.raises(FetchError):
            get("http://127.0.0.1:{port}/", answer)

    def test_nothing_of_ours_is_sent_along(self) -> None:
        seen: list[dict[str, str]] = []

        async def answer(request: web.Request) -> web.StreamResponse:
            seen.append(dict(request.headers))
            return web.Response(body=b"x", headers={"Set-Cookie": "a=b"})

        async def main() -> None:
            async with server(answer) as (port, _):
                await fetch(f"http://127.0.0.1:{port}/")
                await fetch(f"http://127.0.0.1:{port}/")

        asyncio.run(main())
        assert not {"Cookie", "Authorization", "Referer"} & set(seen[1])


def test_the_environments_proxy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with server(give) as (port, asked):
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
            monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
            with pytest.raises(FetchError):
                await fetch("http://10.0.0.1/")
            assert asked == []

    asyncio.run(main())


def test_an_unknown_host_is_named() -> None:
    with pytest.raises(FetchError, match="cannot be resolved") as caught:
        get("http://nowhere.test/a.jpg", resolver=Names())
    assert "nowhere.test" in str(caught.value)


def test_a_closed_port_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setenv(ALLOW, f"127.0.0.1:{port}")
        with pytest.raises(FetchError, match="connecting"):
            get(f"http://127.0.0.1:{port}/")


@pytest.mark.filterwarnings("error")
def test_sessions_are_shared_within_a_loop_and_closed_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[Downloader] = []
    monkeypatch.setattr(Downloader, "close", _noting(closed, Downloader.close))
    complaints: list[dict[str, Any]] = []
    peers: list[Any] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        peers.append(request.transport.get_extra_info("peername"))  # type: ignore[union-attr]
        return web.Response(body=b"x")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, c: complaints.append(c))
        async with server(answer) as (port, _):
            monkeypatch.setenv(ALLOW, f"127.0.0.1:{port}")
            for _ in range(3):
                await fetch(f"http://127.0.0.1:{port}/")

    for _ in range(2):
        asyncio.run(main())
    assert len(set(peers)) == 2
    assert len(set(map(id, closed))) == 2
    assert complaints == []


def _noting(closed: list[Downloader], close: Any) -> Any:
    async def noted(self: Downloader) -> None:
        closed.append(self)
        await close(self)

    return noted

"""Hostile URLs, and a canary inside that counts who reaches it.

Everything is on the loopback interface: `OUTSIDE` stands for a public host, and all other addresses
for the internal network. A name service of its own resolves ``*.test``; what it does not know, the
system resolves, which knows numbers in many spellings.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from aiohttp.abc import AbstractResolver, ResolveResult

from mlkit.errors import FetchError, InputError
from mlkit.fetch.addresses import is_public
from mlkit.fetch.downloader import Downloader

__all__ = ["HARMLESS", "HOSTILE", "OUTSIDE", "Form", "Outcome", "World", "attempt", "world"]

OUTSIDE = "127.0.0.2"
"""The only address that counts as public."""
INSIDE = ("127.0.0.1", "127.8.8.8", "127.255.255.254", "::1")
BODY, SECRET = b"a picture", b"a secret"
STATUSES = (301, 302, 303, 307, 308)
_LOCAL_NAMES = ("localhost", "ip6-localhost", "ip6-loopback")


@dataclass(frozen=True)
class Form:
    """One URL, and how names resolve.

    Attributes:
        kind: what it tries.
        url: the URL; ``{port}`` is the port of the canary and of the host outside.
        addresses: of ``name.test``: what each look-up answers in turn, the last one from then on.
    """

    kind: str
    url: str
    addresses: tuple[tuple[str, ...], ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {ascii(self.url)[1:-1]} {self.addresses or ''}".rstrip()


# ---- what a redirect is made of ------------------------------------------------------------------


def _redirect(location: str, status: int = 302) -> str:
    """Return a URL outside that redirects to ``location``."""
    return f"http://{OUTSIDE}:{{port}}/to/{status}/{quote(location, safe='{}')}"


def _chain(location: str, length: int) -> str:
    for _ in range(length):
        location = _redirect(location)
    return location


# ---- forms ---------------------------------------------------------------------------------------

_IPV4 = (
    *("127.0.0.1", "127.1", "127.0.1", "127.8.8.8", "127.255.255.254", "127.0.0.1."),
    *("2130706433", "0x7f000001", "0X7F000001", "0x7f.0.0.1", "0x7f.0x0.0x0.0x1", "0x7f.1"),
    *("0177.0.0.1", "00000177.0.0.1", "017700000001", "0177.0x0.0.1", "0x7f.0.1", "127.0x1"),
    *("127.000.000.001", "127.0.0.01", "0", "0.0.0.0", "00.0", "0x0", "0.0.0.0."),
    *(
        "4294967296",
        "127.0.0.1.",
        "127.0.0.256",
        "383.0.0.1",
        "127.0.0.1..",
        "18446744071562067969",
    ),
    *("①②⑦.⓪.⓪.①", "１２７.０.０.１", "127。0。0。1", "127．0．0．1", "127｡0｡0｡1", "𝟏𝟐𝟕.𝟎.𝟎.𝟏"),
    *("١٢٧.٠.٠.١", "१२७.०.०.१", "127.0.0.¹", "²¹³⁰⁷⁰⁶⁴³³", "0ˣ7f000001", "①②⑦｡0.0.①"),
    *("%31%32%37.0.0.1", "127%2e0%2e0%2e1", "%31%32%37%2e%30%2e%30%2e%31", "127.0.0.1%00"),
    *("127.0.0.1%20", "127.0.0.1%09", "127.0.0.1%2f", "%00127.0.0.1", "%25%31%32%37.0.0.1"),
    *("localhost", "LOCALHOST", "localhost.", "localhost.localdomain", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "LOCALHOST."),
    *("ip6-localhost", "ip6-loopback", "loc\u00adalhost", "l\u200bocalhost", "loca%6chost"),
)
_IPV6 = (
    *("::1", "::", "0:0:0:0:0:0:0:1", "0000:0000:0000:0000:0000:0000:0000:0001", "::0001"),
    *("::ffff:127.0.0.1", "::ffff:7f00:1", "::FFFF:7F00:0001", "0:0:0:0:0:ffff:127.0.0.1"),
    *("::127.0.0.1", "::7f00:1", "::ffff:0:127.0.0.1", "::ffff:0.0.0.0", "::ffff:10.0.0.1"),
    *("::1%25lo", "::1%lo", "::1%251", "fe80::1%25lo", "fe80::1%25eth0", "::ffff:127.0.0.1%25lo"),
    *("::１", "::①", "::ffff:0x7f000001", "::ffff:127.1", "[::1]", "::1]"),
    *("64:ff9b::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::169.254.169.254"),
    *("64:ff9b:1::7f00:1", "64:ff9b:1:ffff::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::1"),
    *("2002:a9fe:a9fe::", "2001:0:7f00:1::", "2001::80ff:fffe", "2001:0:4136:e378:8000:63bf::"),
    *("fd00:ec2::254", "fc00::1", "fdff::1", "fec0::1", "ff02::1", "ff05::2", "2001:db8::1"),
    *("100::1", "3fff::1", "5f00::1", "2001:10::1", "2001:20::1"),
)
_ELSEWHERE = (
    *("10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.254", "192.168.0.1"),
    *("100.64.0.1", "100.100.100.200", "100.127.255.254", "169.254.169.254", "169.254.170.2"),
    *("192.0.0.192", "192.0.0.170", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.254"),
    *("198.51.100.7", "203.0.113.9", "168.63.129.16", "224.0.0.1", "239.255.255.250"),
    *("240.0.0.1", "255.255.255.255", "0.1.2.3", "0.0.0.1", "2852039166", "0xA9FEA9FE"),
    *("0251.0376.0251.0376", "169.254.43518", "169.16689662", "0xa9.254.0251.254"),
    *("167772161", "0xa000001", "012.0.0.1", "192.168.257", "3232235777"),
)
_SPELLINGS = (
    "http://1.1.1.1@127.0.0.1:{port}/",
    "http://1.1.1.1:80@127.0.0.1:{port}/",
    f"http://{OUTSIDE}:{{port}}@127.0.0.1:{{port}}/",
    "http://@127.0.0.1:{port}/",
    "http://:@127.0.0.1:{port}/",
    "http://1.1.1.1%40127.0.0.1:{port}/",
    "http://1.1.1.1@@127.0.0.1:{port}/",
    "http://a@b@127.0.0.1:{port}/",
    "http://1.1.1.1 &@127.0.0.1:{port}# @1.1.1.1/",
    "http://127.0.0.1:{port}#@1.1.1.1/",
    "http://127.0.0.1:{port}?@1.1.1.1/",
    "http://127.0.0.1:{port};@1.1.1.1/",
    "http://127.0.0.1:{port}\\@1.1.1.1/",
    "http://127.0.0.1:{port}\\.1.1.1.1/",
    "http:\\\\127.0.0.1:{port}\\",
    "http:/\\127.0.0.1:{port}/",
    "http:\\/127.0.0.1:{port}/",
    "http:127.0.0.1:{port}/",
    "http:/127.0.0.1:{port}/",
    "http:///127.0.0.1:{port}/",
    "http:////127.0.0.1:{port}/",
    "http://\t127.0.0.1:{port}/",
    "http://127.0.0.1\t:{port}/",
    "http://127.\n0.0.1:{port}/",
    "ht\ntp://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\r\nHost: 1.1.1.1\r\n\r\n/",
    "\x01http://127.0.0.1:{port}/",
    "\ufeffhttp://127.0.0.1:{port}/",
    " \n http://127.0.0.1:{port}/ \n",
    "HTTP://127.0.0.1:{port}/",
    "hTtPs://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}/?x=http://1.1.1.1/",
    "http://127.0.0.1:0{port}/",
    "http://127.0.0.1:00000000{port}/",
    "http://127.0.0.1:+{port}/",
    "http://127.0.0.1:-{port}/",
    "http://127.0.0.1: {port}/",
    "http://127.0.0.1:{port}:80/",
    "http://127.0.0.1:65536/",
    "http://127.0.0.1:99999999999/",
    "http://127.0.0.1:/",
    "http://127.0.0.1:0/",
    "http://127.0.0.1:６５/",
    "http://127.0.0.1:22/",
    "http://127.0.0.1:6379/",
    "http://.127.0.0.1:{port}/",
    "http://[127.0.0.1]:{port}/",
    "http://[::1:{port}/",
    "http://::1:{port}/",
    "http://*.127.0.0.1:{port}/",
    "http://{{port}}/",
    "http://" + "a" * 70_000 + ".test/",
    "http://" + "%31" * 5_000 + "/",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "FILE:///etc/passwd",
    "ftp://127.0.0.1:{port}/",
    "ftps://127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/_GET%20/",
    "dict://127.0.0.1:{port}/info",
    "ldap://127.0.0.1:{port}/",
    "tftp://127.0.0.1:{port}/x",
    "sftp://127.0.0.1:{port}/",
    "ws://127.0.0.1:{port}/",
    "wss://127.0.0.1:{port}/",
    "tcp://127.0.0.1:{port}/",
    "unix:///var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/info",
    "jar:http://127.0.0.1:{port}/!/",
    "view-source:http://127.0.0.1:{port}/",
    "javascript:fetch('http://127.0.0.1:{port}/')",
    "data:image/png;base64,AAAA",
    "blob:http://127.0.0.1:{port}/x",
    "netdoc:///etc/passwd",
    "php://filter/resource=http://127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "/\\127.0.0.1:{port}/",
    "127.0.0.1:{port}",
    "http:",
    "http://",
    "http://#",
    "http://?",
    "",
)
_LOCATIONS = (
    "http://127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "//localhost:{port}/",
    "///127.0.0.1:{port}/",
    "\\\\127.0.0.1:{port}/",
    "/\\127.0.0.1:{port}/",
    "http:\\\\127.0.0.1:{port}/",
    "http:127.0.0.1:{port}/",
    "http:///127.0.0.1:{port}/",
    "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://2130706433:{port}/",
    "http://0:{port}/",
    "http://%31%32%37.0.0.1:{port}/",
    "http://①②⑦.⓪.⓪.①:{port}/",
    "http://u:p@127.0.0.1:{port}/",
    f"http://{OUTSIDE}@127.0.0.1:{{port}}/",
    "http://name.test:{port}/",
    "https://127.0.0.1:{port}/",
    "http://169.254.169.254/latest/meta-data/",
    "http://10.0.0.1/",
    "file:///etc/passwd",
    "ftp://127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/_x",
    "data:text/plain,x",
    "javascript:0",
    "ws://127.0.0.1:{port}/",
    "http://",
    "http://[::1",
    "http://127.0.0.1:99999/",
    "\thttp://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}/\x7f",
    "\xff\xfe//127.0.0.1",
    "",
)
_PRIVATE_NAMES = (
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.9.9", "192.168.1.1", "::1", "::"),
    *("169.254.169.254", "100.100.100.200", "fd00:ec2::254", "fe80::1", "::ffff:127.0.0.1"),
    *("64:ff9b::7f00:1", "2002:7f00:1::", "224.0.0.1", "255.255.255.255", "fe80::1%lo"),
)


def _hostile() -> Iterator[Form]:
    for host in dict.fromkeys((*_IPV4, *_ELSEWHERE)):
        yield Form("IPv4", f"http://{host}:{{port}}/")
    for host in _IPV6:
        yield Form("IPv6", f"http://[{host}]:{{port}}/")
    for url in _SPELLINGS:
        yield Form("spelling", url)
    for status in STATUSES:
        yield Form("redirect", _redirect("http://127.0.0.1:{port}/", status))
    for status in (300, 304, 305, 306):
        yield Form("redirect of another kind", _redirect("http://127.0.0.1:{port}/", status))
    for location in _LOCATIONS[1:]:
        yield Form("redirect", _redirect(location), (("127.0.0.1",),))
    for length in (2, 3, 5, 6):
        yield Form("chain", _chain("http://127.0.0.1:{port}/", length))
    relative = quote("../302/", safe="") + quote(quote("//localhost:{port}/", safe="{}"), safe="{}")
    yield Form("relative chain", f"http://{OUTSIDE}:{{port}}/to/302/{relative}")
    for path in ("refresh", "link", "html"):
        yield Form("redirect in the content", f"http://{OUTSIDE}:{{port}}/{path}")
    for address in _PRIVATE_NAMES:
        yield Form("private name", "http://name.test:{port}/", ((address,),))
    yield from _flipping()


def _flipping() -> Iterator[Form]:
    """Names with records of both kinds, and records that change."""
    name = "http://name.test:{port}/"
    # The dot makes it another name for caches, but not for name servers.
    again = f"http://name.test:{{port}}/to/302/{quote('http://name.test.:{port}/', safe='{}')}"
    dead = "127.0.0.3"  # inside, and nothing listens
    for inside in ("127.0.0.1", "::1", "10.0.0.1", "::ffff:127.0.0.1"):
        yield Form("mixed records", name, ((inside, dead),))
        yield Form("mixed records", name, ((dead, inside),))
        yield Form("rebinding", again, ((OUTSIDE,), (inside,)))
        yield Form("rebinding between hosts", _redirect(name), ((inside,),))
    yield Form("rebinding", again, ((OUTSIDE,), ("127.0.0.1", "::1"), (OUTSIDE,)))


HOSTILE: tuple[Form, ...] = tuple(dict.fromkeys(_hostile()))
"""None may connect to anything inside; some lead to what the host outside has."""

_GOOD_PATHS = (
    *("", "a.jpg", "a/b/c.png", "a%20b.jpg", "a b.jpg", "%2e%2e/a.jpg", "ä.jpg", "%F0%9F%93%B7"),
    *("?q=1", "a?url=http://127.0.0.1/", "a?x=%0d%0a", "a#part", "a;b=c", "a,b", "a@b", "a:b"),
    *("a\\b", "//a", "a//b", "a.jpg?" + "x" * 500, "[a]", "a|b", "~a", "a'b"),
)

HARMLESS: tuple[Form, ...] = (
    *(Form("path", f"http://{OUTSIDE}:{{port}}/{path}") for path in _GOOD_PATHS),
    *(Form("redirect", _redirect(f"http://{OUTSIDE}:{{port}}/a", status)) for status in STATUSES),
    Form("relative redirect", _redirect("/a.jpg")),
    Form("redirect to a sibling", _redirect("../../a.jpg")),
    Form("redirect without a scheme", _redirect(f"//{OUTSIDE}:{{port}}/a")),
    Form("chain", _chain("/a.jpg", 4)),
    Form("upper case", f"HTTP://{OUTSIDE}:{{port}}/a"),
    Form("name", "http://name.test:{port}/a", ((OUTSIDE,),)),
    Form("upper-case name", "http://NAME.Test:{port}/a", ((OUTSIDE,),)),
    Form("international name", "http://bücher.test:{port}/a", ((OUTSIDE,),)),
    Form("mixed records", "http://name.test:{port}/a", ((OUTSIDE, OUTSIDE),)),
    Form("white space around", f" http://{OUTSIDE}:{{port}}/a\n"),
)
"""Each must be fetched."""


# ---- hosts ---------------------------------------------------------------------------------------


@dataclass
class World:
    """A canary inside and a host outside, which listen on one port.

    Attributes:
        port: the port.
        hits: where somebody has connected to the canary.
        allowed: addresses that were let through, other than `OUTSIDE`.
    """

    port: int
    hits: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def public(self, address: str) -> bool:
        """Judge an address as `is_public` does, with `OUTSIDE` for a public one."""
        if address == OUTSIDE:
            return True
        if is_public(address):
            self.allowed.append(address)
            return False  # whatever it is, it is not on this machine
        return False

    async def alarm(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Count a connection to the canary, and give away its secret."""
        self.hits.append(str(writer.get_extra_info("sockname")))
        await _answer(writer, 200, SECRET)

    async def outside(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve the host outside: ``/to/STATUS/LOCATION`` redirects, all else is a picture."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.close()
            return
        _, status, location = _asked(head)
        location = location.replace(b"{port}", str(self.port).encode())
        fields = {b"Location": location} if status else _CONTENT.get(head.split()[1], {})
        await _answer(writer, status or 200, BODY, fields)


_CONTENT = {
    b"/refresh": {b"Refresh": b"0; url=http://localhost/"},
    b"/link": {b"Link": b"<http://localhost/>; rel=preload", b"Content-Location": b"//localhost/"},
    b"/html": {b"Content-Type": b"text/html", b"Alt-Svc": b'h2="127.0.0.1:1"'},
}


def _asked(head: bytes) -> tuple[bytes, int, bytes]:
    path = head.split()[1]
    parts = path.split(b"/", 3)
    if parts[1] != b"to":
        return path, 0, b""
    return path, int(parts[2]), unquote_to_bytes(parts[3])


async def _answer(
    writer: asyncio.StreamWriter, status: int, body: bytes, fields: dict[bytes, bytes] | None = None
) -> None:
    lines = [f"HTTP/1.1 {status} -\r\nContent-Length: {len(body)}\r\nConnection: close".encode()]
    lines += [name + b": " + value for name, value in (fields or {}).items()]
    writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
    try:
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    except OSError:
        pass


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    """Start the canary and the host outside."""
    async with AsyncExitStack() as stack:
        made = World(_free_port((OUTSIDE, *INSIDE)))
        for address in (OUTSIDE, *INSIDE):
            handle = made.outside if address == OUTSIDE else made.alarm
            await stack.enter_async_context(await _listening(handle, address, made.port))
        yield made


async def _listening(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    address: str,
    port: int,
) -> asyncio.Server:
    return await asyncio.start_server(handle, address, port, limit=2**20)


def _free_port(addresses: Iterable[str]) -> int:
    """A port that is free at all of the addresses."""
    for _ in range(100):
        with closing(socket.create_server(("127.0.0.1", 0))) as first:
            port = int(first.getsockname()[1])
        try:
            for address in addresses:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                socket.create_server((address, port), family=family).close()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        return port
    raise OSError(errno.EADDRINUSE, "no port is free at all addresses")


class Names(AbstractResolver):
    """Resolves ``*.test`` from a table, one answer after the other, and the rest as numbers."""

    def __init__(self, addresses: tuple[tuple[str, ...], ...]) -> None:
        self._answers = list(addresses)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve a name."""
        if host.lower().rstrip(".").endswith(".test"):
            if not self._answers:
                raise OSError(None, "no such name")
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        else:
            answer = await asyncio.to_thread(_system, host)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address in answer
        ]

    async def close(self) -> None:
        """Nothing is open."""


def _system(host: str) -> tuple[str, ...]:
    """What the system makes of the local host's names and of numbers; it is asked for no others."""
    if host.rstrip(".").lower().partition(".")[0] in _LOCAL_NAMES:
        return ("127.0.0.1", "::1")
    return (socket.inet_ntoa(socket.inet_aton(host)),)


@dataclass(frozen=True)
class Outcome:
    """How a URL ended.

    Attributes:
        form: the URL.
        body: what was fetched; None if nothing was.
        error: why not; for an error that is not mlkit's own, with its type.
        hits: connections to the canary.
        expected: whether the error, if any, is one of mlkit's.
    """

    form: Form
    body: bytes | None
    error: str
    hits: int
    expected: bool

    @property
    def safe(self) -> bool:
        """Whether nothing inside was reached, and the error is a clear one."""
        return self.expected and not self.hits and self.body in (None, BODY)


async def attempt(form: Form, inside: World, **options: Any) -> Outcome:
    """Fetch a URL."""
    before = len(inside.hits) + len(inside.allowed)
    url = form.url.replace("{port}", str(inside.port))
    downloader = Downloader(
        resolver=Names(form.addresses), public=inside.public, total_s=5.0, **options
    )
    body, error, expected = None, "", True
    try:
        body = await downloader.fetch(url)
    except (InputError, FetchError) as refused:
        error = str(refused)
    except Exception as unexpected:
        error, expected = f"{type(unexpected).__name__}: {unexpected}", False
    finally:
        await downloader.close()
    return Outcome(form, body, error, len(inside.hits) + len(inside.allowed) - before, expected)

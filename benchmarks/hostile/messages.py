"""Messages that are malformed at every layer of HTTP, and a client that sends them as they are."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

__all__ = ["KINDS", "Answers", "Message", "Target", "messages", "send_all"]

PATIENCE_S = 0.25
"""How long a server may be silent until the client hangs up."""
AT_ONCE = 32


@dataclass(frozen=True)
class Target:
    """Where messages go.

    Attributes:
        port: on loopback.
        path: of the pipeline.
        token: bearer token.
    """

    port: int
    path: str
    token: str


@dataclass(frozen=True)
class Message:
    """Bytes to send, and what is wrong with them."""

    kind: str
    data: bytes


Random = random.Random


# ---- parts ---------------------------------------------------------------------------------------


def _request(
    target: Target,
    body: bytes = b"",
    fields: Sequence[bytes] = (),
    *,
    line: bytes = b"",
    length: bytes | None = None,
    content_type: bytes = b"application/json",
) -> bytes:
    head = [
        line or f"POST {target.path} HTTP/1.1".encode(),
        b"Host: 127.0.0.1",
        b"Authorization: Bearer " + target.token.encode(),
        b"Content-Type: " + content_type,
        *fields,
    ]
    if length is None:
        head.append(b"Content-Length: " + str(len(body)).encode())
    elif length:
        head.append(length)
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def _good(target: Target, title: str) -> bytes:
    return _request(target, json.dumps({"title": title}).encode(), [b"Connection: close"])


_BODY = b'{"title": "x"}'


_LONG, _DIGITS = b"x" * 1_000_000, b"9" * 1_000_000
_MANY_KEYS = b", ".join(b'"%d": 1' % number for number in range(30_000))
_BOMB = gzip.compress(bytes(2**21), mtime=0)


def _noise(draw: Random, most: int) -> bytes:
    return draw.randbytes(draw.randrange(1, most))


def _request_line(target: Target, draw: Random) -> bytes:
    path = target.path.encode()
    line = draw.choice(
        [
            b"POST " + path,
            b"POST  " + path + b"  HTTP/1.1",
            b"POST\t" + path + b"\tHTTP/1.1",
            b"POST "
            + path
            + b" HTTP/"
            + draw.choice([b"0.9", b"9.9", b"1.", b"x", b"1.1.1", b"2"]),
            b"POST " + path + b" HTTP/1.1 more",
            draw.choice([b"post", b"P\x00ST", b"", b"X" * 5000, b"\xff\xfe", b"GE T"])
            + b" / HTTP/1.1",
            draw.choice([b"TRACE", b"CONNECT", b"OPTIONS", b"PUT", b"DELETE", b"PATCH", b"HEAD"])
            + b" "
            + draw.choice([path, b"*", b"127.0.0.1:22", b"http://127.0.0.1:22/"])
            + b" HTTP/1.1",
            b"POST " + path + b"?" + b"a" * draw.choice([9_000, 70_000, 200_000]) + b" HTTP/1.1",
            b"POST " + path + _noise(draw, 20) + b" HTTP/1.1",
            b"POST "
            + path
            + draw.choice([b"%", b"%zz", b"%ff", b"%00", b"/../..", b"//", b"%0d%0aX: y"])
            + b" HTTP/1.1",
            b"POST /..%2f..%2fetc/passwd HTTP/1.1",
            b"PRI * HTTP/2.0",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + _noise(draw, 200),
            b"SSH-2.0-OpenSSH_9.6",
            b"\r\n\r\n\r\nPOST " + path + b" HTTP/1.1",
            _noise(draw, 400),
        ]
    )
    return _request(target, _BODY, line=line)


def _header(target: Target, draw: Random) -> bytes:
    names = (b"X-Request-Id", b"Accept", b"Cookie", b"traceparent", b"X-Forwarded-For", b"Origin")
    name = draw.choice(names)
    fields = draw.choice(
        [
            [b": empty"],
            [b"No colon at all"],
            [name + b" : space"],
            [b" " + name + b": folded", b" more", b"\tmore"],
            [name + b": a\x00b"],
            [name + b": a\rb"],
            [name + b": a\nInjected: b"],
            [name + b": " + _noise(draw, 100).replace(b"\n", b"")],
            [name + b": " + b"a" * draw.choice([8_000, 66_000, 300_000])],
            [b"X-%d: y" % number for number in range(draw.choice([101, 2_000, 10_000]))],
            [b"Host: evil", b"Host: 127.0.0.1"],
            [draw.choice([b"X(Y", b"X\x7f", b"X\xff", "Ö".encode()]) + b": z"],
            [
                b"Connection: "
                + draw.choice([b"host", b"content-length", b"upgrade", b"\x00", b"," * 999])
            ],
            [b"Expect: " + draw.choice([b"100-continue", b"200-ok", b""])],
            [b"Upgrade: " + draw.choice([b"websocket", b"h2c", b"\xff"]), b"Connection: Upgrade"],
            [
                b"Authorization: "
                + draw.choice([b"Bearer", b"Bearer \xff", b"Basic x", b"Bearer " * 99])
            ],
            [name + b": " + "\u202e𝒳".encode()],
        ]
    )
    return _request(target, _BODY, fields)


def _own_header(target: Target, draw: Random) -> bytes:
    """Headers that mlkit itself reads."""
    hostile = draw.choice(
        [
            b"",
            b"nan",
            b"-inf",
            b"1e999",
            b"-1",
            b"0",
            b"\xff",
            b"1" * 5000,
            b"\x1b[31m",
            b"a b",
            b",",
            b";q=",
            b"*/*;q=nan",
            b"..",
            b'"',
            b"'",
            b"{}",
            b"%0d%0a",
            b"0x10",
            "٣".encode(),
        ]
    )
    name = draw.choice(
        [
            b"X-Request-Timeout-Seconds",
            b"X-Priority",
            b"Idempotency-Key",
            b"X-Request-Id",
            b"traceparent",
            b"Accept",
            b"Content-Type",
            b"Content-Encoding",
            b"X-Mlkit-Exact",
            b"Origin",
            b"Cookie",
            b"Range",
            b"Sec-WebSocket-Protocol",
            b"Accept-Encoding",
        ]
    )
    return _request(target, _BODY, [name + b": " + hostile])


def _length(target: Target, draw: Random) -> bytes:
    lengths = [
        *(b"-1", b"+14", b"0x0e", b"1e1", b"9" * 30, b"9" * 5_000, b"", b"14, 14", b"14 14"),
        *(b"14\x00", b"14;x", b"\xb2", "１４".encode(), b"0" * 4_000 + b"14", b"13", b"15", b"0"),
        *(b"14.0", b"18446744073709551630", b"-9223372036854775808", b"\t14", b"14\x0b"),
    ]
    value = b"Content-Length: " + draw.choice(lengths)
    if draw.random() < 0.3:
        value += b"\r\nContent-Length: " + draw.choice(lengths)
    return _request(target, _BODY, length=value)


def _chunks(target: Target, draw: Random) -> bytes:
    encodings = [b"chunked", b"xchunked", b"chunked, identity", b"identity, chunked", b"chunked;x"]
    encodings += [b" chunked", b"\x0bchunked", b"chunKed", b"gzip, chunked", b"", b"chunked\x00"]
    sizes = [b"e", b"-1", b"0xe", b"F" * 16, b"F" * 17, b"F" * 9_999, b"", b" e", b"e ", b"+e"]
    sizes += [b"e;x=y", b"e;" + b"x" * 70_000, b"e\x00", b"g", b"7fffffff", b"00000000e", b"\xff"]
    end = draw.choice([b"0\r\n\r\n", b"0\r\n", b"", b"0\r\nX: y\r\n\r\n", b"0\n\n", b"-0\r\n\r\n"])
    body = draw.choice(sizes) + draw.choice([b"\r\n", b"\n", b"\r"]) + _BODY + b"\r\n" + end
    return _request(target, body, length=b"Transfer-Encoding: " + draw.choice(encodings))


def _smuggled(target: Target, draw: Random) -> bytes:
    """Two lengths that two servers could read differently, with a request in the difference."""
    inner = f"GET /healthz?smuggled HTTP/1.1\r\nHost: x\r\nX-Ignore: {draw.random()}".encode()
    te = draw.choice(
        [
            *(b"Transfer-Encoding: chunked", b"Transfer-Encoding : chunked"),
            *(
                b"Transfer-Encoding:\tchunked",
                b"Transfer-Encoding: xchunked",
                b"X: y\nTransfer-Encoding: chunked",
            ),
            *(
                b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
                b"Transfer-Encoding\n : chunked",
            ),
            *(
                b"Transfer-Encoding:\x0bchunked",
                b"Transfer_Encoding: chunked",
                b"\x00Transfer-Encoding: chunked",
            ),
            *(
                b" Transfer-Encoding: chunked",
                b'Transfer-Encoding: "chunked"',
                b"TRANSFER-ENCODING: CHUNKED",
            ),
        ]
    )
    chunked = b"0\r\n\r\n" + inner
    if draw.random() < 0.5:
        size = len(chunked)
    else:
        chunked, size = b"%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner), 4
    fields = [b"Content-Length: %d" % size, te]
    draw.shuffle(fields)
    return _request(target, chunked, fields, length=b"")


def _multipart(target: Target, draw: Random) -> bytes:
    names = [
        b'name="title"',
        b"name=title",
        b'name="',
        b'name="ti\x00tle"',
        b'name="title"; name="x"',
    ]
    names += [b"", b"name*=utf-8''%ff", b'name="\xff"']
    files = [
        b"",
        b'; filename="../../etc/passwd"',
        b'; filename="a\nb"',
        b'; filename="\x1b[31m.png"',
    ]
    files += [b"; filename*=x''%", b'; filename="' + b"\xf0" * 999 + b'"', b'; filename=""']
    count = draw.choice([0, 1, 2, 5, 1_100])
    if count < 10:
        names.append(b'name="' + b"x" * 70_000 + b'"')
    parts = bytearray()
    for _ in range(count):
        disposition = draw.choice([b"form-data; ", b"attachment; ", b""]) + draw.choice(names)
        parts += b"--B\r\nContent-Disposition: " + disposition + draw.choice(files)
        parts += draw.choice(
            [
                b"\r\n",
                b"\n",
                b"\r\nContent-Type: \xff\r\n",
                b"\r\nContent-Transfer-Encoding: base64\r\n",
            ]
        )
        parts += draw.choice([b"\r\n", b"", b"\n"]) + _noise(draw, 50) + draw.choice([b"\r\n", b""])
    parts += draw.choice([b"--B--\r\n", b"--B--", b"--B", b"", b"--BB--\r\n"])
    boundary = draw.choice(
        [
            b"; boundary=B",
            b"",
            b"; boundary=",
            b'; boundary="B',
            b"; boundary=" + b"B" * 5000,
            b"; boundary=\xff",
            b"; boundary=B; boundary=C",
            b"; boundary=B; charset=no-such-charset",
        ]
    )
    return _request(target, bytes(parts), content_type=b"multipart/form-data" + boundary)


def _form(target: Target, draw: Random) -> bytes:
    body = draw.choice(
        [
            *(b"title=%", b"title=%ff%fe", b"title", b"=", b"&" * 50_000, b"title=a&title=b"),
            *(
                b"a=b&" * 5_000,
                b"title=x&numbers=" + b"[" * 50_000,
                b"title=x&options=" + b'{"a":' * 9_999,
            ),
            *(b"title=x&numbers=" + b"1" * 100_000, b"title=x&day=" + b"9" * 9_999, b"title=%00"),
            *(b"title=x&options=[" + b"1" * 5_000, b"title=x&numbers=1e999", b"title=\x00\xff"),
        ]
    )
    kind = b"application/x-www-form-urlencoded" + draw.choice(
        [b"", b"; charset=utf-7", b"; charset=\xff"]
    )
    return _request(target, body, content_type=kind)


def _nested(draw: Random) -> bytes:
    depth = draw.choice([200, 5_000, 100_000])
    opening, closing = draw.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
    value = opening * depth + b"1" + (closing * depth if draw.random() < 0.7 else b"")
    return draw.choice([value, b'{"title": %s}' % value, b'{"title": "x", "numbers": %s}' % value])


def _number(draw: Random) -> bytes:
    number = draw.choice([_DIGITS, b"1." + _DIGITS, b"1e999999999", b"-" + b"9" * 5_000])
    number = draw.choice(
        [number, b"1e-999999999", b"NaN", b"-Infinity", b"0x1", b"01", b"1_0", b"+1", b"."]
    )
    field = draw.choice([b'"numbers": [%s]', b'"options": {"a": %s}', b'"title": %s', b'"day": %s'])
    return b'{"title": "x", ' + field % number + b"}"


def _json(target: Target, draw: Random) -> bytes:
    body = draw.choice(
        [
            _nested(draw),
            _number(draw),
            b'{"title": "x", "title": 1}',
            b"{" + b'"title": "x", ' * 20_000 + b'"title": "y"}',
            b'{"title": "'
            + draw.choice([b"\\ud800", b"\xff\xfe", b"\x00", b"\\u0000", b"\xed\xa0\x80"])
            + b'"}',
            b"\xef\xbb\xbf" + _BODY,
            _BODY.decode().encode(draw.choice(["utf-16", "utf-32", "utf-16-be"])),
            _BODY[: draw.randrange(1, len(_BODY))],
            _BODY + draw.choice([b",", b"}", b"\x00", _BODY, b"//x"]),
            draw.choice([b"null", b"[]", b"1", b'""', b"true", b"{}", b"{", b"nul", b"'a'"]),
            b'{"title": "x", "%s": 1}'
            % draw.choice([b"__proto__", b"__class__", b"self", b"\\u0000", b""]),
            b'{"title": "x", "options": {%s}}' % _MANY_KEYS,
            b'{"title": "%s"}' % _LONG,
            json.dumps({"title": "x", "image": draw.choice(_IMAGES)}).encode(),
            json.dumps(
                {"title": "x", "day": draw.choice(["9999-99-99", "x" * 9_999, 1e300, -1, []])}
            ).encode(),
            json.dumps({"title": draw.choice([None, 1, [], {}, True])}).encode(),
            _noise(draw, 300),
        ]
    )
    kind = draw.choice(
        [b"application/json", b"application/json; charset=utf-16", b"application/x+json"]
    )
    return _request(target, body, content_type=kind)


_IMAGES = [
    *("data:", "data:,", "data:;base64,", "data:image/png;base64,%%%", "data:image/png;base64,A"),
    *("data:image/png," + "%ff" * 999, "http://127.0.0.1/", "http://[::1", "file:///etc/passwd"),
    *(
        "x" * 100_000,
        "\ud800",
        "\x00",
        "http://\ud800/",
        "http://a" + "\ud83d" + "/",
        "http://1/\x1b",
    ),
    *("http://" + "a." * 500 + "test/", "https://user:pass@127.0.0.1/", "\nhttp://x y/"),
]


def _encoded(target: Target, draw: Random) -> bytes:
    packed = gzip.compress(_BODY, mtime=0)
    body = draw.choice(
        [
            _BODY,
            packed[:-4],
            packed[:8],
            packed + b"x",
            packed * 300,
            b"",
            _BOMB * 20,
            zlib.compress(_BODY),
            gzip.compress(packed, mtime=0),
            zlib.compress(_BODY)[2:-4],
            b"\x1f\x8b" + _noise(draw, 99),
        ]
    )
    encoding = draw.choice(
        [b"gzip", b"deflate", b"gzip, gzip", b"br", b"zstd", b"x-gzip", b"\xff", b"gzip;q=0"]
    )
    return _request(target, body, [b"Content-Encoding: " + encoding])


def _content_type(target: Target, draw: Random) -> bytes:
    kinds = [b"", b"/", b"image/png", b"image/", b"application/json;", b"a" * 9_999, b"\xff/\xff"]
    kinds += [
        b"application/vnd.mlkit.exact",
        b"application/x-npy",
        b"text/xml",
        b"text/plain; charset=\x00",
    ]
    kinds += [
        b"application/octet-stream",
        b"application/json, text/plain",
        b"multipart/mixed; boundary=x",
    ]
    return _request(target, _noise(draw, 300), content_type=draw.choice(kinds))


_PATHS = [
    *(
        b"/try",
        b"/docs",
        b"/openapi.json",
        b"/metrics",
        b"/healthz",
        b"/jobs",
        b"/v2",
        b"/v2/models",
    ),
    *(
        b"/v2/models/described/infer",
        b"/v2/models/%2e%2e/infer",
        b"/v2/models/x\xff/infer",
        b"/jobs/%00",
    ),
    *(
        b"/jobs/..%2f..",
        b"/jobs/" + b"x" * 5_000,
        b"/jobs/1/results",
        b"/swagger/..%2f..%2fsetup.py",
    ),
    *(
        b"/docs?code=" + b"x" * 999,
        b"/docs?code=1.a.b",
        b"/docs?code=%00.%00.%00",
        b"/try?code=\xff",
    ),
    *(
        b"/docs?code=99999999999999999999.a.b",
        b"/swagger/%00",
        b"/jobs?limit=-1",
        b"/jobs?after=\x1b",
    ),
]


def _route(target: Target, draw: Random) -> bytes:
    root = target.path.encode() if draw.random() < 0.5 else b""
    method = draw.choice([b"GET", b"POST", b"PUT", b"DELETE"])
    body = draw.choice(
        [
            b"",
            b"[" * 50_000,
            b'{"inputs": %s}' % draw.choice([b"1", b"[]", b"[{}]", b"{}", b"[" * 9_999, b"[null]"]),
            b'{"inputs": [{"name": "title", "datatype": "%s", "shape": [%s], "data": [%s]}]}'
            % (
                draw.choice([b"BYTES", b"FP32", b"X", b"INT64", b"BOOL"]),
                draw.choice(
                    [b"1", b"-1", b"9" * 30, b"1e9", b"null", b"0", b"1, 1, 1", b"9999999999"]
                ),
                draw.choice([b'"x"', b"1", b"null", b"1e999", b"[[[1]]]", b"{}", b"9" * 5_000]),
            ),
            _nested(draw),
            _noise(draw, 99),
        ]
    )
    fields = []
    if draw.random() < 0.3:
        lengths = [b"-1", b"x", b"9" * 30, b"9" * 5_000, b"3", b"\xb2"]
        fields = [b"Inference-Header-Content-Length: " + draw.choice(lengths)]
    return _request(
        target, body, fields, line=method + b" " + root + draw.choice(_PATHS) + b" HTTP/1.1"
    )


def _mutated(target: Target, draw: Random) -> bytes:
    data = bytearray(_request(target, _BODY, [b"Accept: */*", b"X-Priority: bulk"]))
    for _ in range(draw.choice([1, 2, 8, 40])):
        at, to = sorted(draw.randrange(len(data)) for _ in range(2))
        how = draw.randrange(5)
        if how == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif how == 1:
            data[at:at] = draw.choice([b"\x00", b"\r\n", b"\n", b"\r\n\r\n", b"\xff", b":", b" "])
        elif how == 2:
            del data[at : at + 1 + draw.randrange(10)]
        elif how == 3:
            data[at:at] = data[at:to]
        else:
            data[at] = draw.randrange(256)
        if not data:
            break
    return bytes(data)


def _truncated(target: Target, draw: Random) -> bytes:
    data = _request(target, _BODY)
    return data[: draw.randrange(1, len(data))]


def _pipelined(target: Target, draw: Random) -> bytes:
    one = _request(target, _BODY)
    return draw.choice(
        [one * 50, one + _mutated(target, draw), one + b"\r\n" + _noise(draw, 99), one[:-1] * 3]
    )


KINDS: Mapping[str, Callable[[Target, Random], bytes]] = {
    "request line": _request_line,
    "header": _header,
    "header of mlkit's": _own_header,
    "content length": _length,
    "chunks": _chunks,
    "smuggled": _smuggled,
    "multipart": _multipart,
    "form": _form,
    "json": _json,
    "content encoding": _encoded,
    "content type": _content_type,
    "route": _route,
    "mutated": _mutated,
    "truncated": _truncated,
    "pipelined": _pipelined,
}
"""What makes a message of each kind."""


def messages(target: Target, count: int, seed: int = 0) -> Iterator[Message]:
    """Generate messages of all kinds, by turns."""
    draw = random.Random(seed)
    kinds = list(KINDS.items())
    for number in range(count):
        kind, make = kinds[number % len(kinds)]
        yield Message(kind, make(target, draw))


# ---- sending -------------------------------------------------------------------------------------

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_LEAK = re.compile(rb'Traceback \(most recent|  File ".+", line \d+')


@dataclass
class Answers:
    """What a server has answered.

    Attributes:
        statuses: how often, by status; 0 for a connection that was closed without an answer.
        failed: messages that a status 500 answers.
        leaked: messages whose answer has a traceback.
        good: harmless requests in between that had their answers.
        bad: those that had not.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    failed: list[Message] = field(default_factory=list)
    leaked: list[Message] = field(default_factory=list)
    good: int = 0
    bad: list[bytes] = field(default_factory=list)

    def add(self, message: Message, answer: bytes) -> None:
        """Count the answer to a message."""
        statuses = [int(status) for status in _STATUS.findall(answer)] or [0]
        self.statuses.update(statuses)
        if 500 in statuses:
            self.failed.append(message)
        if _LEAK.search(answer):
            self.leaked.append(message)

    def summary(self) -> dict[str, Any]:
        """Counts, and the first messages of each kind that went wrong."""
        return {
            "status_500": len(self.failed),
            "tracebacks": len(self.leaked),
            "good_between": f"{self.good} of {self.good + len(self.bad)}",
            "statuses": {str(status): n for status, n in sorted(self.statuses.items())},
        }


async def send(port: int, data: bytes, patience_s: float = PATIENCE_S) -> bytes:
    """Send bytes, and return all that comes back until the server closes or falls silent."""
    answer = b""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return answer
    try:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(10):
                writer.write(data)
                await writer.drain()
        with suppress(OSError, TimeoutError):
            while True:
                async with asyncio.timeout(patience_s):
                    part = await reader.read(2**16)
                if not part:
                    break
                answer += part
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    return answer


async def send_all(target: Target, corpus: Sequence[Message]) -> Answers:
    """Send messages, a few at a time, and a harmless request after every tenth."""
    answers, places = Answers(), asyncio.Semaphore(AT_ONCE)

    async def one(number: int, message: Message) -> None:
        async with places:
            answers.add(message, await send(target.port, message.data))
            if number % 10 == 9:
                await good(number)

    async def good(number: int) -> None:
        title = f"good {number}"
        answer = await send(target.port, _good(target, title), patience_s=10.0)
        if answer.startswith(b"HTTP/1.1 200") and answer.endswith(f'"{title}"'.encode()):
            answers.good += 1
        else:
            answers.bad.append(answer)

    await asyncio.gather(*(one(number, message) for number, message in enumerate(corpus)))
    await good(len(corpus))
    return answers

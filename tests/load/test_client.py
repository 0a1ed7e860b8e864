"""The HTTP client against scripted servers: every way an answer can come, or not come."""

import asyncio
import socket
import ssl

import pytest

from mlkit.load.client import IDLE_LIMIT_S, Endpoint, Pool, new_event_loop, resolve

REQUEST = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@pytest.fixture
def fetch():
    """``fetch(port, count)``: the answers to requests sent one after the other."""

    def run(port, count=1, *, request=REQUEST, timeout=5.0, rest=0.0, tls=False, **options):
        async def main(loop):
            endpoint = Endpoint("127.0.0.1", port, "localhost", tls)
            pool = Pool(loop, endpoint, [request], **options)
            answers = []
            for slot in range(count):
                came = loop.create_future()
                pool.answered = lambda slot, answer, came=came: came.set_result(answer)
                pool.send(slot)
                answers.append(await asyncio.wait_for(came, timeout))
                await asyncio.sleep(rest)
            pool.close()
            await asyncio.sleep(0)
            return answers, pool

        loop = new_event_loop()
        try:
            return loop.run_until_complete(main(loop))
        finally:
            loop.close()

    return run


@pytest.fixture
def reply(serve, read_request):
    """``reply(*pieces)``: the port of a server that answers each request with these pieces.

    ``None`` among them closes the connection, ``"reset"`` resets it.
    """

    def start(*pieces, pause=0.0):
        async def handler(reader, writer):
            while True:
                await read_request(reader)
                for piece in pieces:
                    if piece is None:
                        return
                    if piece == "reset":
                        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                        raw = writer.get_extra_info("socket")
                        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                        writer.transport.abort()
                        return
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(pause)

        return serve(handler)

    return start


@pytest.mark.parametrize(
    ("raw", "size"),
    [
        (OK, 2),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n"
            b"\r\n",
            5,
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 0),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 2),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 304 Not Modified\r\n\r\n", 0),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000, 300_000),
    ],
    ids=["length", "chunked", "204", "empty", "100 first", "304 after hints", "larger than buffer"],
)
def test_answers_of_every_framing_are_whole_and_keep_the_connection(fetch, reply, raw, size):
    answers, pool = fetch(reply(raw), count=3, statuses=frozenset({200, 204, 304}))
    assert [(a.size, a.error) for a in answers] == [(size, None)] * 3
    assert pool.opened == 1


def test_an_answer_may_come_byte_by_byte(fetch, reply):
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    (answer,), _ = fetch(reply(*[raw[k : k + 1] for k in range(len(raw))]))
    assert (answer.status, answer.size, answer.error) == (200, 3, None)


def test_first_byte_and_end_are_told_apart(fetch, reply):
    (answer,), _ = fetch(reply(OK[:-1], OK[-1:], pause=0.05))
    assert answer.finished - answer.first_byte > 0.04


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_body_may_end_with_the_connection(fetch, reply, version):
    port = reply(b"HTTP/" + version + b" 200 OK\r\nConnection: close\r\n\r\n", b"abc", b"de", None)
    answers, pool = fetch(port, count=2)
    assert [(a.status, a.size, a.error) for a in answers] == [(200, 5, None)] * 2
    assert pool.opened == 2


def test_connection_close_is_honoured(fetch, reply):
    port = reply(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")
    answers, pool = fetch(port, count=2)
    assert [a.error for a in answers] == [None, None]
    assert pool.opened == 2


def test_head_answers_have_no_body_whatever_their_length_says(fetch, reply):
    port = reply(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n")
    request = b"HEAD /x HTTP/1.1\r\nHost: x\r\n\r\n"
    (answer,), _ = fetch(port, request=request, headless=frozenset({0}))
    assert (answer.status, answer.size, answer.error) == (200, 0, None)


@pytest.mark.parametrize(
    ("pieces", "kind", "words"),
    [
        ([None], "closed", "before its response"),
        (["reset"], "reset", "before its response"),
        ([OK[:-1], None], "closed", "within its response"),
        (
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab", None],
            "closed",
            "within",
        ),
        ([b"HTTP/1.1 200 OK\r\nContent-", None], "closed", "within its response"),
        ([b"SMTP ready\r\n"], "protocol", "Expected HTTP"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n"], "protocol", "Content-Length"),
        (
            [b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n"],
            "protocol",
            "switched",
        ),
    ],
)
def test_what_is_no_answer_is_an_error_with_a_reason(fetch, reply, pieces, kind, words):
    (answer,), _ = fetch(reply(*pieces))
    assert answer.error == kind
    assert words in answer.detail


def test_errors_of_the_server_keep_their_words_and_the_connection(fetch, reply):
    port = reply(b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\nqueue ful")
    answers, pool = fetch(port, count=2)
    assert [(a.status, a.error, a.detail) for a in answers] == [(503, "http 503", "queue ful")] * 2
    assert pool.opened == 1


def test_server_timing_is_kept_from_every_header_that_has_it(fetch, reply):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"
    port = reply(head + b"Server-Timing: queue;dur=1\r\nserver-timing: compute;dur=2\r\n\r\n")
    (first, second), _ = fetch(port, count=2)
    assert first.timing == second.timing == "queue;dur=1, compute;dur=2"


def test_a_server_may_answer_before_it_has_the_whole_request(fetch, serve):
    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(5)

    body = b"x" * 20_000_000
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    answers, pool = fetch(serve(handler), count=2, request=request)
    assert [a.error for a in answers] == ["http 413"] * 2
    assert pool.opened == 2  # what is left of the first body must not precede the second request


def test_a_large_request_arrives_whole(fetch, serve, read_request):
    async def handler(reader, writer):
        _, body = await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n%08d" % len(body))

    body = bytes(5_000_000)
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    (answer,), _ = fetch(serve(handler), request=request)
    assert (answer.status, answer.size) == (200, 8)


def test_nothing_listening_is_refused(fetch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (answer,), _ = fetch(free.getsockname()[1])
    assert (answer.status, answer.error) == (0, "refused")


@pytest.mark.parametrize("surplus", [b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", b"nonsense"])
@pytest.mark.parametrize("pause", [0.0, 0.02], ids=["together", "later"])
def test_bytes_that_nobody_asked_for_end_the_connection(fetch, serve, read_request, surplus, pause):
    async def handler(reader, writer):
        await read_request(reader)
        writer.write(OK if pause else OK + surplus)
        await asyncio.sleep(pause)
        writer.write(surplus if pause else b"")
        await asyncio.sleep(5)

    answers, pool = fetch(serve(handler), count=2, rest=2 * pause)
    # Whoever took the surplus for the next answer would be one ahead from then on.
    assert [(a.status, a.error) for a in answers] == [(200, None)] * 2
    assert pool.opened == 2


def _pool_run(port, body):
    """Run ``body(pool, loop, wait)`` in a fresh loop."""

    async def main(loop):
        pool = Pool(loop, Endpoint("127.0.0.1", port, "localhost"), [REQUEST])
        heard = asyncio.Queue()
        pool.answered = lambda slot, answer: heard.put_nowait((slot, answer))
        try:
            return await body(pool, loop, lambda: asyncio.wait_for(heard.get(), 5))
        finally:
            pool.close()
            await asyncio.sleep(0)

    loop = new_event_loop()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.close()


def test_an_abandoned_request_is_never_reported_nor_its_connection_used_again(serve, read_request):
    async def slow_first(reader, writer):
        await read_request(reader)
        await asyncio.sleep(0.1)
        writer.write(OK)

    async def body(pool, loop, heard):
        pool.send(0)
        await asyncio.sleep(0.03)
        pool.abandon(0)
        pool.send(1)
        slot, answer = await heard()
        return slot, answer.error, pool.opened

    assert _pool_run(serve(slow_first), body) == (1, None, 2)


def test_a_request_may_be_abandoned_while_its_connection_opens(hello):
    async def body(pool, loop, heard):
        pool.send(0)
        pool.abandon(0)
        pool.send(1)
        return (await heard())[0]

    assert _pool_run(hello, body) == 1


def test_connections_idle_for_long_are_not_used_again(hello):
    async def body(pool, loop, heard):
        for _ in range(2):
            pool.send(0)
            await heard()
        used_again = pool.opened
        pool._idle[-1].idle_since -= IDLE_LIMIT_S + 1
        pool.send(0)
        _, answer = await heard()
        return used_again, pool.opened, answer.error

    assert _pool_run(hello, body) == (1, 2, None)


def test_a_connection_that_the_server_closed_while_idle_is_not_used_again(serve, read_request):
    async def once(reader, writer):
        await read_request(reader)
        writer.write(OK)
        await writer.drain()

    async def body(pool, loop, heard):
        errors = []
        for _ in range(3):
            pool.send(0)
            errors.append((await heard())[1].error)
            await asyncio.sleep(0.02)
        return errors, len(pool._idle)

    assert _pool_run(serve(once), body) == ([None] * 3, 0)


def test_many_requests_at_once_each_have_a_connection(hello):
    async def body(pool, loop, heard):
        for slot in range(50):
            pool.send(slot)
        answered = {(await heard())[0] for _ in range(50)}
        return answered, pool.opened

    assert _pool_run(hello, body) == (set(range(50)), 50)


def test_timers_are_finer_than_a_millisecond():
    async def main(loop):
        late = []
        for _ in range(50):
            due = loop.time() + 0.0014
            woken = loop.create_future()
            loop.call_at(due, woken.set_result, None)
            await woken
            late.append(loop.time() - due)
        return sorted(late)[5]

    loop = new_event_loop()
    # asyncio's own loop would wake 0.6 ms late here at best: it rounds 1.4 ms up to 2.
    assert loop.run_until_complete(main(loop)) < 0.0005
    loop.close()


def test_names_resolve_to_addresses_in_order():
    assert resolve("127.0.0.1", 80) == ["127.0.0.1"]
    with pytest.raises(OSError):
        resolve("no-such-host.invalid", 80)


@pytest.mark.parametrize(("trusted", "outcome"), [(True, (200, None)), (False, (0, "tls"))])
def test_https_is_spoken_and_verified(
    fetch, serve, read_request, certificate, monkeypatch, trusted, outcome
):
    async def handler(reader, writer):
        await read_request(reader)
        writer.write(OK)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    (answer,), _ = fetch(serve(handler, ssl=context), tls=True)
    assert (answer.status, answer.error) == outcome

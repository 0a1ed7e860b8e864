"""Hosts that are slow or gone do not hold up others; breakers and limits in virtual time."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from mlkit.errors import FetchError
from mlkit.fetch import hosts
from mlkit.fetch.downloader import Downloader
from mlkit.fetch.hosts import (
    FAILURES,
    MAX_OPEN_S,
    MAX_PER_HOST,
    OPEN_S,
    STALLED_S,
    Breaker,
    Gate,
    Hosts,
    RefusedHostError,
)
from tests.fetch.test_fetch import Names, server


def visit(breaker: Breaker, now: float, healthy: bool | None) -> bool:
    """Make one download; whether the host was asked at all."""
    started = breaker.begin(now)
    if started is None:
        return False
    started.healthy = healthy
    breaker.end(now, started)
    return True


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        assert visit(breaker, now, False)
    return breaker


def test_a_host_that_fails_repeatedly_is_left_alone_and_then_tried_once() -> None:
    breaker = opened()
    assert not visit(breaker, OPEN_S - 0.1, True)
    trial = breaker.begin(OPEN_S)
    assert trial is not None
    assert breaker.begin(OPEN_S) is None  # one at a time
    trial.healthy = True
    breaker.end(OPEN_S, trial)
    assert all(visit(breaker, OPEN_S, True) for _ in range(3))


def test_a_failed_trial_doubles_the_pause_up_to_a_limit() -> None:
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(8):
        began = now
        while not visit(breaker, now, False):
            now += 0.5
        pauses.append(now - began)
    assert pauses == [5.0, 10.0, 20.0, 40.0, *[MAX_OPEN_S] * 4]


def test_failures_count_in_a_row_only() -> None:
    breaker = Breaker()
    for _ in range(3):
        for _ in range(FAILURES - 1):
            assert visit(breaker, 0.0, False)
        assert visit(breaker, 0.0, True)


def test_a_cancelled_trial_says_nothing_and_makes_way_for_the_next() -> None:
    breaker = opened()
    assert visit(breaker, OPEN_S, None)
    assert visit(breaker, OPEN_S, True)


def test_downloads_from_before_do_not_end_the_trial_of_another() -> None:
    breaker = Breaker()
    old = breaker.begin(0.0)
    for _ in range(FAILURES):
        visit(breaker, 0.0, False)
    assert breaker.begin(OPEN_S) is not None
    old.healthy = False
    breaker.end(OPEN_S, old)
    assert breaker.begin(OPEN_S + 0.1) is None


@given(st.lists(st.tuples(st.floats(0, 5), st.sampled_from([True, False, None])), max_size=60))
def test_whatever_a_host_does_it_is_asked_again_within_the_longest_pause(history) -> None:
    breaker, now = Breaker(), 0.0
    for passed, healthy in history:
        now += passed
        visit(breaker, now, healthy)
    assert visit(breaker, now + MAX_OPEN_S, True)
    assert visit(breaker, now + MAX_OPEN_S, True)


# ---- places -------------------------------------------------------------------------------------


def test_of_a_busy_host_downloads_wait_and_of_a_stalled_one_they_fail_at_once() -> None:
    async def main() -> None:
        clock = [100.0]
        gate = Gate(lambda: clock[0])
        visit(gate.breaker, 100.0, True)
        order: list[str] = []

        async def wait() -> None:
            async with gate.visited():
                order.append("entered")

        async with AsyncExitStack() as places:
            for _ in range(MAX_PER_HOST):
                await places.enter_async_context(gate.visited())
            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0)
            clock[0] += STALLED_S + 0.1
            with pytest.raises(RefusedHostError):
                await gate.visited().__aenter__()
            assert order == []
        await waiting
        assert order == ["entered"]
        assert gate.users == 0

    asyncio.run(main())


def test_one_who_leaves_the_line_takes_no_place() -> None:
    async def main() -> None:
        gate = Gate(lambda: 0.0)
        visit(gate.breaker, 0.0, True)
        async with AsyncExitStack() as places:
            for _ in range(MAX_PER_HOST):
                await places.enter_async_context(gate.visited())
            waiting = asyncio.create_task(gate.visited().__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert gate.users == MAX_PER_HOST
        async with gate.visited():
            assert gate.users == 1

    asyncio.run(main())


def test_hosts_in_use_are_remembered_and_the_longest_unused_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(hosts, "MAX_HOSTS", 3)

    async def main() -> None:
        known = Hosts(lambda: 0.0)
        busy, idle = known.gate("busy:80"), known.gate("idle:80")
        async with busy.visited():
            for i in range(10):
                known.gate(f"{i}:80")
            assert known.gate("busy:80") is busy
            assert known.gate("9:80") is known.gate("9:80")
            assert known.gate("idle:80") is not idle
            assert len(known._gates) == 3

    asyncio.run(main())


# ---- in downloads -------------------------------------------------------------------------------


class Answers:
    """A server that answers each request with the next status, and counts them."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return web.Response(status=status, body=b"picture")


async def fetched(downloader: Downloader, url: str) -> Any:
    try:
        return await downloader.fetch(url)
    except FetchError as error:
        return str(error)


@pytest.mark.parametrize(("status", "opens"), [(500, True), (503, True), (429, True), (404, False)])
def test_errors_of_a_host_open_its_breaker_and_those_of_the_request_do_not(status, opens) -> None:
    async def main() -> None:
        names = Names(bad_test=["127.0.0.1"], good_test=["127.0.0.1"])
        downloader = Downloader(resolver=names, public=lambda address: True)
        async with server(Answers(status)) as (bad, asked), server(Answers(200)) as (good, _):
            said = [
                await fetched(downloader, f"http://bad.test:{bad}/") for _ in range(FAILURES + 2)
            ]
            assert all(f"got {status}" in text for text in said[:FAILURES])
            assert ("does not respond" in said[-1]) is opens
            assert len(asked) == (FAILURES if opens else FAILURES + 2)
            assert await fetched(downloader, f"http://good.test:{good}/") == b"picture"
        await downloader.close()

    asyncio.run(main())


@pytest.mark.parametrize("fault", ["hangs", "drips", "refuses", "breaks off"])
def test_a_host_that_does_not_answer_properly_is_not_asked_any_more(fault) -> None:
    over = asyncio.Event()

    async def bad(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        if fault == "hangs":
            await over.wait()
        await response.prepare(request)
        await response.write(b"x")
        if fault == "drips":
            await over.wait()
        request.transport.abort()
        return response

    async def main() -> None:
        names = Names(bad_test=["127.0.0.1"])
        downloader = Downloader(resolver=names, public=lambda address: True, total_s=0.1)
        async with server(bad) as (port, _):
            url = f"http://bad.test:{1 if fault == 'refuses' else port}/"
            said = [await fetched(downloader, url) for _ in range(FAILURES + 1)]
            over.set()
        assert not any("does not respond" in text for text in said[:-1])
        assert "does not respond" in said[-1]
        await downloader.close()

    asyncio.run(main())


def test_a_private_address_stays_refused_for_what_it_is() -> None:
    async def main() -> None:
        downloader = Downloader(resolver=Names(inside_test=["10.1.2.3"]))
        for _ in range(FAILURES + 2):
            with pytest.raises(FetchError, match="is not public"):
                await downloader.fetch("http://inside.test/")
        await downloader.close()

    asyncio.run(main())


def test_a_client_that_leaves_says_nothing_about_the_host() -> None:
    over = asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        await over.wait()
        return web.Response()

    async def main() -> None:
        names, patient = Names(slow_test=["127.0.0.1"]), {"connect_s": 60.0, "total_s": 60.0}
        downloader = Downloader(resolver=names, public=lambda address: True, **patient)
        async with server(hang) as (port, asked):
            for i in range(FAILURES + 2):
                leaving = asyncio.create_task(downloader.fetch(f"http://slow.test:{port}/"))
                while len(asked) <= i:
                    await asyncio.sleep(0.001)
                leaving.cancel()
                await asyncio.wait([leaving])
            gate = downloader._hosts.gate(f"slow.test:{port}")
            assert (gate.users, gate.breaker.failures) == (0, 0)
            over.set()
        await downloader.close()

    asyncio.run(main())


def test_slow_hosts_hold_their_own_places_and_none_of_others() -> None:
    """More downloads hang than there are connections to one host; another host is not affected."""
    release = asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response(body=b"late")

    async def main() -> None:
        names = Names(a_test=["127.0.0.1"], b_test=["127.0.0.1"], good_test=["127.0.0.1"])
        patient = {"connect_s": 60.0, "total_s": 60.0}
        downloader = Downloader(resolver=names, public=lambda address: True, **patient)
        async with server(hang) as (slow, asked), server(Answers(200)) as (good, _):
            urls = [f"http://{name}.test:{slow}/" for name in "ab"]
            hanging = [
                asyncio.create_task(fetched(downloader, url))
                for url in urls
                for _ in range(MAX_PER_HOST + 8)
            ]
            while len(asked) < 2 * MAX_PER_HOST:
                await asyncio.sleep(0.001)
            assert await fetched(downloader, f"http://good.test:{good}/") == b"picture"
            release.set()
            results = await asyncio.gather(*hanging)
            assert results == [b"late"] * len(hanging)
        await downloader.close()

    asyncio.run(main())


def test_a_burst_to_a_host_that_was_idle_waits_for_places() -> None:
    async def main() -> int:
        now = 1000.0
        gate = Hosts(lambda: now).gate("cdn:443")
        release = asyncio.Event()

        async def download() -> None:
            async with gate.visited() as visit:
                await release.wait()
                visit.healthy = True

        burst = [asyncio.ensure_future(download()) for _ in range(3 * MAX_PER_HOST)]
        await asyncio.sleep(0)
        later = asyncio.ensure_future(download())  # all places are taken by now
        await asyncio.sleep(0)
        release.set()
        outcomes = await asyncio.gather(*burst, later, return_exceptions=True)
        return sum(outcome is not None for outcome in outcomes)

    assert asyncio.run(main()) == 0

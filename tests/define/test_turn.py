"""One at a time, in threads and on event loops."""

import asyncio
import threading

import pytest

from mlkit.define.turn import Turn


def test_turns_come_in_order_of_arrival() -> None:
    turn, order = Turn(), []
    turn.take()

    async def on_a_loop() -> None:
        async def wait(name: str) -> None:
            await turn.take_async()
            order.append(name)
            turn.pass_on()

        first = asyncio.create_task(wait("first"))
        await asyncio.sleep(0)
        second = threading.Thread(target=lambda: (turn.take(), order.append("second")))
        second.start()
        while len(turn._waiting) < 2:
            await asyncio.sleep(0.001)
        turn.pass_on()
        await first
        await asyncio.to_thread(second.join)

    asyncio.run(on_a_loop())
    assert order == ["first", "second"]


@pytest.mark.parametrize("passed_on_meanwhile", [False, True])
def test_a_wait_that_is_cancelled_blocks_nobody(passed_on_meanwhile: bool) -> None:
    turn = Turn()
    turn.take()

    async def cancel() -> None:
        waiting = asyncio.create_task(turn.take_async())
        await asyncio.sleep(0)
        if passed_on_meanwhile:
            turn.pass_on()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        if not passed_on_meanwhile:
            turn.pass_on()
        await asyncio.wait_for(turn.take_async(), 1)

    asyncio.run(cancel())

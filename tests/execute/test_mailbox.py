"""Posting to a loop from threads: in order, one wake-up for many, and nothing lost."""

import asyncio
import threading

from mlkit.execute.mailbox import Mailbox, Mailboxes


class CountingLoop:
    """Stands for a loop that is looked after by hand."""

    def __init__(self) -> None:
        self.callbacks = []
        self.closed = False
        self.exceptions = []

    def call_exception_handler(self, context) -> None:
        self.exceptions.append(context["exception"])

    def call_soon_threadsafe(self, callback) -> None:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.callbacks.append(callback)

    def is_closed(self) -> bool:
        return self.closed

    def turn(self) -> None:
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()


def test_many_posts_are_one_wake_up_and_keep_their_order() -> None:
    loop, got = CountingLoop(), []
    mailbox = Mailbox(loop)
    for i in range(5):
        assert mailbox.post(got.append, i)
    assert len(loop.callbacks) == 1
    loop.turn()
    assert got == [0, 1, 2, 3, 4]


def test_a_call_that_raises_loses_none_of_the_others() -> None:
    loop, delivered = CountingLoop(), []
    mailbox = Mailbox(loop)
    mailbox.post(delivered.append, 1)
    mailbox.post(lambda: 1 / 0)
    mailbox.post(delivered.append, 2)
    loop.turn()
    assert delivered == [1, 2]
    assert [type(error) for error in loop.exceptions] == [ZeroDivisionError]


def test_a_post_after_the_loop_looked_wakes_it_again() -> None:
    loop, got = CountingLoop(), []
    mailbox = Mailbox(loop)
    mailbox.post(lambda: mailbox.post(got.append, "posted while delivering"))
    loop.turn()
    assert len(loop.callbacks) == 1
    loop.turn()
    assert got == ["posted while delivering"]


def test_a_closed_loop_takes_nothing_however_often_it_is_asked() -> None:
    loop = CountingLoop()
    mailbox = Mailbox(loop)
    assert mailbox.post(print)
    loop.closed = True  # with a call that it never got to
    assert not mailbox.post(print)
    assert not mailbox.post(print)
    empty = Mailbox(loop)
    assert not empty.post(print)


def test_nothing_is_lost_between_posting_threads_and_a_running_loop() -> None:
    async def collect(threads: int, each: int) -> int:
        loop = asyncio.get_running_loop()
        mailbox, got, all_there = Mailbox(loop), [], asyncio.Event()

        def take(i: int) -> None:
            got.append(i)
            if len(got) == threads * each:
                all_there.set()

        def post() -> None:
            for i in range(each):
                mailbox.post(take, i)

        posters = [threading.Thread(target=post) for _ in range(threads)]
        for thread in posters:
            thread.start()
        await asyncio.wait_for(all_there.wait(), 20)
        for thread in posters:
            thread.join()
        return len(got)

    assert asyncio.run(collect(4, 2000)) == 8000


def test_a_call_to_the_loop_that_runs_here_is_made_at_once() -> None:
    async def post() -> list[int]:
        got: list[int] = []
        assert Mailboxes().post(asyncio.get_running_loop(), got.append, 1)
        return got

    assert asyncio.run(post()) == [1]


def test_each_loop_has_a_mailbox_and_closed_ones_are_dropped() -> None:
    boxes, loops = Mailboxes(), [CountingLoop() for _ in range(3)]
    for i, loop in enumerate(loops[:2]):
        boxes.post(loop, loop.__setattr__, "got", i)
        boxes.post(loop, loop.__setattr__, "also", i)
    for loop in loops[:2]:
        assert len(loop.callbacks) == 1
        loop.turn()
    assert [(loop.got, loop.also) for loop in loops[:2]] == [(0, 0), (1, 1)]
    loops[0].closed = True
    boxes.post(loops[2], print)
    assert set(boxes._boxes) == set(loops[1:])

"""Malformed messages against a real server: no status 500, no traceback, and it goes on."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from benchmarks.hostile.messages import KINDS, Answers, Message, Target, messages, send_all
from benchmarks.hostile.served import TOKEN, described, serving

MESSAGES = 225
HUNG_UP = "the handler is closed"
"""A response to a pipelined request whose connection uvicorn has closed."""


def test_malformed_messages_are_refused_and_good_ones_answered() -> None:
    with serving(described) as (port, logged):
        target = Target(port, "/described", TOKEN)
        answers = asyncio.run(send_all(target, list(messages(target, MESSAGES, seed=1))))
    assert answers.failed == []
    assert answers.leaked == []
    assert answers.bad == []
    assert answers.good == MESSAGES // 10 + 1
    assert sum(answers.statuses.values()) >= MESSAGES
    assert [text for text in logged.texts if HUNG_UP not in text] == []


def test_messages_are_of_all_kinds_and_the_same_for_a_seed() -> None:
    target = Target(1, "/described", TOKEN)
    first, again = (list(messages(target, 60, seed=3)) for _ in range(2))
    assert first == again
    assert Counter(message.kind for message in first) == dict.fromkeys(KINDS, 4)
    assert list(messages(target, 60, seed=4)) != first
    assert all(isinstance(make(target, random.Random(0)), bytes) for make in KINDS.values())


def test_a_status_500_and_a_traceback_are_counted() -> None:
    answers, message = Answers(), Message("json", b"x")
    answers.add(message, b"HTTP/1.1 200 OK\r\n\r\nxHTTP/1.1 500 Internal Server Error\r\n\r\n")
    answers.add(message, b"HTTP/1.1 400 B\r\n\r\nTraceback (most recent call last):\n")
    answers.add(message, b"")
    assert answers.failed == [message]
    assert answers.leaked == [message]
    assert answers.statuses == {200: 1, 500: 1, 400: 1, 0: 1}

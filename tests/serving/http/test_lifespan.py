"""The lifespan of a user's application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI

from mlkit.serving.http.lifespan import Lifespan


@pytest.fixture
def seen() -> list[str]:
    return []


@pytest.fixture
def shop(seen: list[str]) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        seen.append("up")
        yield
        seen.append("down")

    return FastAPI(lifespan=lifespan)


def test_the_application_is_built_after_its_startup(shop, seen) -> None:
    def build() -> Any:
        seen.append("built")

    async def run() -> None:
        async with Lifespan(build, shop):
            seen.append("serving")

    asyncio.run(run())
    assert seen == ["up", "built", "serving", "down"]


def test_an_application_that_cannot_be_built_is_shut_down(shop, seen) -> None:
    def build() -> Any:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        asyncio.run(Lifespan(build, shop).__aenter__())
    assert seen == ["up", "down"]

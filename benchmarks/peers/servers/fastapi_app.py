"""FastAPI: the tagger in its thread pool."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from benchmarks.peers.tagger import Tagger


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.tagger = Tagger()
    if threads := os.environ.get("PEERS_THREADS"):
        anyio.to_thread.current_default_thread_limiter().total_tokens = int(threads)
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/tag")
async def tag(request: Request) -> Response:
    tags = await run_in_threadpool(app.state.tagger, await request.body())
    return Response(tags.model_dump_json(), media_type="application/json")

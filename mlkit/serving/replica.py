"""What runs inside a Serve replica: a whole pipeline, its executor and its HTTP face."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from mlkit.execute import Executor, compile_graph
from mlkit.execute.cores import switch_promptly
from mlkit.serving.bundle import Origin, unpack
from mlkit.serving.ingress import Served, create_app
from mlkit.serving.limits import Limits
from mlkit.serving.output import capture
from mlkit.serving.problem import Failures

__all__ = ["Replica", "Shipment"]


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """What a replica is started with.

    Attributes:
        app: name of the app.
        version: of what is shipped and how; `/readyz` tells it.
        bundle: path of the pickled bundle, or the bundle itself where the path is elsewhere.
        logs: folder for what is printed; passed over where it is not there.
    """

    app: str
    version: str
    bundle: str | bytes
    origin: Origin
    logs: str
    limits: Limits
    token: str | None
    workers: int | None = None


class Replica:
    """A fused pipeline: all of its steps in this process."""

    async def __init__(self, shipment: Shipment) -> None:  # type: ignore[misc]  # Serve awaits it
        switch_promptly()
        logs = Path(shipment.logs)
        keep = capture(logs, shipment.app) if logs.is_dir() else None  # noqa: ASYNC240
        self._failures = Failures(keep) if keep else Failures()
        shipment.origin.enter()
        self._served: Served | None = None
        self._app = await self._start(shipment)

    async def _start(self, shipment: Shipment) -> ASGIApp:
        data = shipment.bundle
        if isinstance(data, str):
            data = await asyncio.to_thread(Path(data).read_bytes)
        try:
            graph = unpack(data).graph
            program = await asyncio.to_thread(compile_graph, graph)
        except BaseException as error:
            self._failures.record(error)
            raise
        executor = Executor(program, workers=shipment.workers, loop=asyncio.get_running_loop())
        self._served = Served(executor, shipment.limits, self._failures)
        # What was loaded stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        return create_app(
            graph, lambda: self._served, shipment.limits, shipment.token, shipment.version
        )

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._app

    async def __del__(self) -> None:
        if getattr(self, "_served", None) is not None:
            assert self._served is not None
            self._served.executor.close()

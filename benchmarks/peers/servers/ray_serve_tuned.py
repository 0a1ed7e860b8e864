"""Plain Ray Serve tuned by hand: one deployment, a replica for each core, Serve's fast data plane.

``RAY_SERVE_ENABLE_HA_PROXY`` and ``RAY_SERVE_THROUGHPUT_OPTIMIZED`` are set where it is started.
"""

import os
import sys

import ray
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from ray import serve

from benchmarks.peers.tagger import Tagger

api = FastAPI()


@serve.deployment(
    num_replicas=int(os.environ.get("PEERS_WORKERS", "2")),
    max_ongoing_requests=100,
    ray_actor_options={"num_cpus": 0},
)
@serve.ingress(api)
class Tags:
    def __init__(self) -> None:
        self.tagger = Tagger()

    @api.post("/tag")
    async def tag(self, request: Request) -> Response:
        tags = await run_in_threadpool(self.tagger, await request.body())
        return Response(tags.model_dump_json(), media_type="application/json")


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Tags.bind(), blocking=True)

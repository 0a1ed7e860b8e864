"""For scale: the graph that a tutorial would write with plain Ray Serve, on its defaults.

Five deployments composed by handles: decode, classify (eager torch in fp32, under `@serve.batch`),
colour, words, and the FastAPI ingress that combines them. It runs in a Ray of its own, without any
of mlkit's flags. Run as a module it serves until its standard input closes.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request

from mlkit.load import closed, load_test
from mlkit.load.requests import HttpRequest
from mlkit.serving.flags import free_port

__all__ = ["measure"]


def measure(images: Sequence[bytes], *, seconds: float) -> float:
    """Good answers a second with sixteen callers; 0 where it does not come up."""
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "mlkit.demo.plain_serve", str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    )
    assert process.stdout is not None
    try:
        if not any(line.startswith("ready") for line in process.stdout):
            return 0.0
        requests = [
            HttpRequest(
                method="POST",
                url=f"http://127.0.0.1:{port}/tag",
                headers={"Content-Type": "image/jpeg"},
                body=image,
            )
            for image in images
        ]
        url = f"http://127.0.0.1:{port}/tag"
        result = load_test(
            url, requests, closed(concurrency=16), duration_s=seconds, progress=False
        )
        return float(result.summary()["ok_rate"])
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def _graph() -> Any:
    import numpy as np
    import torch
    from PIL import Image
    from ray import serve

    from mlkit.models import efficientnet_lite0

    @serve.deployment
    class Decoder:
        def __call__(self, data: bytes) -> Any:
            picture = Image.open(io.BytesIO(data)).convert("RGB").resize((224, 224))
            return np.asarray(picture)

    @serve.deployment
    class Classifier:
        def __init__(self) -> None:
            self.net = efficientnet_lite0()

        @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.01)
        async def __call__(self, pixels: list[Any]) -> list[int]:
            x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float()
            with torch.inference_mode():
                return [int(i) for i in self.net((x - 127) / 128).argmax(1)]

    @serve.deployment
    class Colour:
        def __call__(self, pixels: Any) -> int:
            coarse = pixels[::8, ::8].reshape(-1, 3).astype(int) >> 5
            return int(np.bincount(coarse @ np.array([64, 8, 1])).argmax())

    @serve.deployment
    class Words:
        def __call__(self, title: str) -> list[str]:
            return title.lower().split()

    web = FastAPI()

    @serve.deployment
    @serve.ingress(web)
    class Tagger:
        def __init__(self, decoder: Any, classifier: Any, colour: Any, words: Any) -> None:
            self.decoder, self.classifier = decoder, classifier
            self.colour, self.words = colour, words

        @web.post("/tag")
        async def tag(self, request: Request, title: str = "") -> dict[str, Any]:
            pixels = await self.decoder.remote(await request.body())
            label = self.classifier.remote(pixels)
            colour = self.colour.remote(pixels)
            words = self.words.remote(title)
            return {"label": await label, "colour": await colour, "words": await words}

    parts: list[Any] = [Tagger, Decoder, Classifier, Colour, Words]
    tagger, *others = parts  # deployments, whatever their decorator says
    return tagger.bind(*[part.bind() for part in others])


def main(port: int) -> None:
    """Serve the graph until standard input closes."""
    import ray
    from ray import serve

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(_graph(), name="plain", route_prefix="/")
    print("ready", flush=True)
    sys.stdin.read()
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""Product tagging the way introductions to Ray Serve write it: five deployments, Serve's defaults.

It is here to be compared with, as a script of its own, with nothing of mlkit's serving in it: a
FastAPI ingress that composes a downloader, a classifier behind ``@serve.batch``, a colour finder
and a combiner through their handles. The classifier is eager torch in fp32.

It prints its address when it answers, and ends when its standard input does.
"""

from __future__ import annotations

import io
import logging
import sys
from typing import Any

import numpy as np
import PIL.Image
import ray
import torch
from fastapi import FastAPI, Request
from ray import serve
from ray.serve.handle import DeploymentHandle

from mlkit.models import efficientnet_lite0, imagenet_names

__all__ = ["main"]

api = FastAPI()


@serve.deployment
class Downloader:
    """Decodes the picture, which the demo uploads: nothing is to be fetched."""

    def __call__(self, data: bytes) -> PIL.Image.Image:
        return PIL.Image.open(io.BytesIO(data)).convert("RGB")


@serve.deployment
class Classifier:
    """EfficientNet-Lite0, several pictures at a time."""

    def __init__(self) -> None:
        self.model = efficientnet_lite0()
        self.names = imagenet_names()

    @serve.batch
    async def __call__(self, images: list[PIL.Image.Image]) -> list[str]:
        batch = torch.stack([self.preprocess(image) for image in images])
        with torch.no_grad():
            logits = self.model(batch)
        return [self.names[i] for i in logits.argmax(dim=1).tolist()]

    def preprocess(self, image: PIL.Image.Image) -> torch.Tensor:
        """A picture as the model takes it."""
        small = image.resize((224, 224), PIL.Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(small, dtype=np.float32))
        return ((pixels - 127.0) / 128.0).permute(2, 0, 1)


@serve.deployment
class ColourFinder:
    """The main colour, as a hexadecimal number."""

    def __call__(self, image: PIL.Image.Image) -> str:
        palette = image.resize((64, 64)).quantize(8)
        counts = palette.getcolors() or [(0, 0)]
        _, best = max(counts, key=lambda found: found[0])
        assert isinstance(best, int)
        red, green, blue = (palette.getpalette() or [0, 0, 0])[3 * best : 3 * best + 3]
        return f"#{red:02x}{green:02x}{blue:02x}"


@serve.deployment
class Combiner:
    """All of it as tags."""

    def __call__(self, label: str, colour: str, title: str) -> list[str]:
        return [label, colour, *title.lower().split()]


@serve.deployment
@serve.ingress(api)
class Tagger:
    """The way in: composes the others."""

    def __init__(
        self,
        downloader: DeploymentHandle[Any],
        classifier: DeploymentHandle[Any],
        colours: DeploymentHandle[Any],
        combiner: DeploymentHandle[Any],
    ) -> None:
        self.downloader = downloader
        self.classifier = classifier
        self.colours = colours
        self.combiner = combiner

    @api.post("/tag")
    async def tag(self, request: Request, title: str = "") -> dict[str, list[str]]:
        """Tag one picture, the raw body of the request."""
        image = self.downloader.remote(await request.body())
        label = self.classifier.remote(image)
        colour = self.colours.remote(image)
        return {"tags": await self.combiner.remote(label, colour, title)}


def main(port: int) -> None:
    """Serve it until standard input ends."""
    # Each deployment asks for one CPU: five have to find room, also on a machine with fewer cores.
    ray.init(num_cpus=8, include_dashboard=False, logging_level=logging.ERROR)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(_bound(), name="blog", route_prefix="/")
    sys.stdout.write(f"ready: http://127.0.0.1:{port}/tag\n")
    sys.stdout.flush()
    sys.stdin.read()
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


def _bound() -> Any:
    tagger, *parts = (
        _deployment(c) for c in (Tagger, Downloader, Classifier, ColourFinder, Combiner)
    )
    return tagger.bind(*(part.bind() for part in parts))


def _deployment(decorated: Any) -> Any:
    """What ``@serve.deployment`` makes of a class, which type checkers do not see."""
    return decorated


if __name__ == "__main__":
    main(int(sys.argv[1]))

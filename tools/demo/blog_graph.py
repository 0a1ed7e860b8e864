"""Product tagging the way introductions to Ray Serve write it: five deployments, Serve's defaults.

It is here to be compared with, as a script of its own, with nothing of mlkit's serving in it: a
FastAPI ingress that composes a downloader, a classifier behind ``@serve.batch``, a colour finder
and a combiner through their handles. The classifier is eager torch in fp32.

It prints its address when it answers, and ends when its standard input does.
"""


# Annotations stay objects: what FastAPI reads of a route is looked at again in the replica.

import io
import logging
import sys
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
import ray
import torch
from fastapi import FastAPI, Request
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle

from mlkit.models import efficientnet_lite0, imagenet_names
from mlkit.tagging.network import load_tagging_model

__all__ = ["main"]

api = FastAPI()

Pixels: TypeAlias = NDArray[np.uint8]


@serve.deployment
class Downloader:
    """Decodes the picture, which the demo uploads: nothing is to be fetched.

    It hands on what the model needs and no more: small arrays travel faster than whole pictures.
    """

    def __call__(self, data: bytes) -> Pixels:
        picture = PIL.Image.open(io.BytesIO(data)).convert("RGB")
        return np.asarray(picture.resize((224, 224), PIL.Image.Resampling.BILINEAR))


@serve.deployment
class Classifier:
    """EfficientNet-Lite0, several pictures at a time."""

    def __init__(self) -> None:
        self.model = efficientnet_lite0()
        self.names = imagenet_names()

    @serve.batch
    async def __call__(self, images: list[Pixels]) -> list[str]:
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            logits = self.model((pixels - 127.0) / 128.0)
        return [self.names[i] for i in logits.argmax(dim=1).tolist()]


@serve.deployment
class CompiledClassifier:
    """The same place in the graph with mlkit's compiled model: only the serving differs then."""

    def __init__(self) -> None:
        self.model = load_tagging_model()
        self.names = imagenet_names()

    @serve.batch
    async def __call__(self, images: list[Pixels]) -> list[str]:
        outputs: Any = self.model(np.stack(images))
        return [self.names[i] for i in outputs[0].argmax(axis=1).tolist()]


@serve.deployment
class ColourFinder:
    """The most frequent colour, as a hexadecimal number."""

    def __call__(self, image: Pixels) -> str:
        coarse = image[::4, ::4].reshape(-1, 3).astype(int) >> 5
        best = int(np.bincount(coarse @ np.array([64, 8, 1])).argmax())
        red, green, blue = (32 * (best >> shift & 7) + 16 for shift in (6, 3, 0))
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


def main(port: int, *, compiled: bool = False) -> None:
    """Serve it until standard input ends; with mlkit's compiled model if ``compiled``."""
    _start_ray()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(_bound(CompiledClassifier if compiled else Classifier), name="blog", route_prefix="/")
    sys.stdout.write(f"ready: http://127.0.0.1:{port}/tag\n")
    sys.stdout.flush()
    sys.stdin.read()
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


def _start_ray(attempts: int = 3) -> None:
    """Start Ray; on a busy machine its own limit of 30 s may be too short."""
    for left in reversed(range(attempts)):
        try:
            # Each deployment asks for one CPU: five have to find room, also where there are fewer.
            ray.init(num_cpus=8, include_dashboard=False, logging_level=logging.ERROR)
            return
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise


def _bound(classifier: Any) -> Any:
    tagger, *parts = (
        _deployment(c) for c in (Tagger, Downloader, classifier, ColourFinder, Combiner)
    )
    return tagger.bind(*(part.bind() for part in parts))


def _deployment(decorated: Any) -> Any:
    """What ``@serve.deployment`` makes of a class, which type checkers do not see."""
    return decorated


if __name__ == "__main__":
    main(int(sys.argv[1]), compiled="compiled" in sys.argv[2:])

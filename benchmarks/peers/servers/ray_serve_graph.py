"""Plain Ray Serve as introductions write it: a deployment for each part, Serve's defaults."""

import asyncio
import sys
from typing import Any

import ray
from fastapi import FastAPI, Request
from ray import serve

from benchmarks.peers.tagger import load_model
from mlkit.tagging import (
    ProductTags,
    colours,
    combine,
    decode,
    imagenet_labels,
    localise,
    look,
    product_class,
)

api = FastAPI()


@serve.deployment
class Decoder:
    def __call__(self, data: bytes) -> Any:
        return decode.fn(data)


@serve.deployment
class Classifier:
    def __init__(self) -> None:
        self.model = load_model()

    @serve.batch
    async def __call__(self, pictures: list[Any]) -> list[Any]:
        return look.fn(pictures, model=self.model)


@serve.deployment
class ColourFinder:
    def __call__(self, picture: Any, box: Any) -> Any:
        return colours.fn(picture, box)


@serve.deployment
class Combiner:
    def __call__(self, product: Any, labels: Any, box: Any, found: Any) -> ProductTags:
        return combine.fn(product, labels, box, found, [])


@serve.deployment
@serve.ingress(api)
class Ingress:
    def __init__(self, decoder: Any, classifier: Any, finder: Any, combiner: Any) -> None:
        self.decoder, self.classifier = decoder, classifier
        self.finder, self.combiner = finder, combiner

    @api.post("/tag")
    async def tag(self, request: Request) -> ProductTags:
        decoded = self.decoder.remote(await request.body())
        picture, seen = await asyncio.gather(decoded, self.classifier.remote(decoded))
        box = localise.fn(picture, seen)
        found = self.finder.remote(picture, box)
        return await self.combiner.remote(
            product_class.fn(seen), imagenet_labels.fn(seen), box, found
        )


if __name__ == "__main__":
    ray.init(num_cpus=8, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    parts = (Decoder, Classifier, ColourFinder, Combiner)
    serve.run(Ingress.bind(*(part.bind() for part in parts)), blocking=True)

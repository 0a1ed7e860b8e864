"""BentoML: a service with worker processes, images as multipart uploads."""

import os
from pathlib import Path

import bentoml

from benchmarks.peers.tagger import Tagger
from mlkit.tagging import ProductTags


@bentoml.service(workers=int(os.environ.get("PEERS_WORKERS", "1")))
class TagService:
    def __init__(self) -> None:
        self.tagger = Tagger()

    @bentoml.api(route="/tag")
    def tag(self, image: Path) -> ProductTags:
        return self.tagger(image.read_bytes())

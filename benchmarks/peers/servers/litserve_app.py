"""LitServe: worker processes, images as multipart uploads."""

import os
import sys
from typing import Any

import litserve as ls
from fastapi import Request

from benchmarks.peers.tagger import Tagger


class TagAPI(ls.LitAPI):
    def setup(self, device: str) -> None:
        self.tagger = Tagger()

    def decode_request(self, request: Request) -> bytes:
        return request["image"].file.read()

    def predict(self, image: bytes) -> Any:
        return self.tagger(image)

    def encode_response(self, output: Any) -> Any:
        return output.model_dump()


if __name__ == "__main__":
    workers = int(os.environ.get("PEERS_WORKERS", "1"))
    server = ls.LitServer(TagAPI(api_path="/tag"), accelerator="cpu", workers_per_device=workers)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)

"""Mosec: a front in Rust, one queue for worker processes."""

import os
from typing import Any

from mosec import Server, Worker

from benchmarks.peers.tagger import Tagger


class TagWorker(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.tagger = Tagger()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> Any:
        return self.tagger(data)

    def serialize(self, data: Any) -> bytes:
        return data.model_dump_json().encode()


if __name__ == "__main__":
    server = Server()
    server.append_worker(TagWorker, num=int(os.environ.get("PEERS_WORKERS", "1")))
    server.run()

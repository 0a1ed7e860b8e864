"""``mlkit grpc``: the gateway from gRPC to an app."""

from __future__ import annotations

import argparse
import asyncio

from mlkit.cli.arguments import Commands, address, count, port, url

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "grpc",
        help="answer gRPC for an app that serves",
        description="Answer calls of the Open Inference Protocol over gRPC by an app's routes "
        "under /v2, with its tokens, limits and deadlines. Prints one line, `ready: HOST:PORT`, "
        "and shuts down on SIGINT or SIGTERM.",
        epilog="Calls carry the app's bearer token in their metadata: authorization.",
    )
    parser.add_argument(
        "url", type=url, metavar="URL", help="base URL of the app, such as http://127.0.0.1:8000"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to bind to (%(default)s)")
    parser.add_argument(
        "--port", type=port, default=9000, help="port to bind to (%(default)s); 0 for a free one"
    )
    parser.add_argument(
        "--max-body-bytes",
        type=count,
        default=20 * 2**20,
        metavar="N",
        help="the app's own limit (%(default)s)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Answer calls until a signal."""
    from mlkit.serving.gateway.server import Gateway, run

    host = address(arguments.host)
    gateway = Gateway(arguments.url, host, arguments.port, arguments.max_body_bytes)
    asyncio.run(run(gateway, lambda address: print(f"ready: {address}", flush=True)))
    return 0

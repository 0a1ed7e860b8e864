"""``mlkit serve``: a pipeline over HTTP, until a signal."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from mlkit.cli.arguments import Commands, UsageError, address, count, port, say
from mlkit.cli.signals import ignore_signals, interrupt_on_signals
from mlkit.cli.target import load
from mlkit.errors import MlkitError

if TYPE_CHECKING:
    from mlkit.serving.kernel.session import Session

__all__ = ["add", "run"]

LOOPBACK = re.compile(r"127(\.\d+){3}|localhost")
WATCH_S = 0.5


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "serve",
        help="serve a pipeline over HTTP",
        description="Serve a pipeline over HTTP. Prints one line, `ready: URL`, once it accepts "
        "requests, and shuts down on SIGINT or SIGTERM.",
        epilog="Requests carry a bearer token: MLKIT_TOKEN, or a generated one.",
    )
    parser.add_argument(
        "target", metavar="MODULE:PIPELINE", help="pipeline to serve, such as mlkit.tagging:tag"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to bind to (%(default)s)")
    parser.add_argument(
        "--port", type=port, default=8000, help="port to bind to (%(default)s); 0 for a free one"
    )
    parser.add_argument(
        "--no-token", action="store_true", help="disable authentication; only on a loopback address"
    )
    parser.add_argument(
        "--num-replicas", type=count, default=1, help="replicas that answer HTTP (%(default)s)"
    )
    parser.add_argument(
        "--layout",
        choices=("fused", "per_step"),
        default="fused",
        help="all steps in one process, or one stage per step (%(default)s)",
    )
    parser.add_argument(
        "--workers", type=count, help="worker threads per replica (its cores plus two)"
    )
    tls = parser.add_argument_group("TLS", "the port accepts HTTPS only")
    tls.add_argument(
        "--certfile", type=Path, metavar="PEM", help="certificate, and those of its issuers"
    )
    tls.add_argument(
        "--keyfile", type=Path, metavar="PEM", help="its key, unless --certfile has it"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve a pipeline until a signal."""
    token = _token(arguments, os.environ)
    # Child processes must not inherit it.
    os.environ.pop("MLKIT_TOKEN", None)
    host = address(arguments.host)
    if arguments.keyfile is not None and arguments.certfile is None:
        raise UsageError("--keyfile needs --certfile")
    _claim(host, arguments.port)
    out = sys.stdout
    # stdout is reserved for the `ready` line; output of the pipeline's module goes to stderr.
    with redirect_stdout(sys.stderr), interrupt_on_signals():
        try:
            return _serve(arguments, host, token, out)
        except KeyboardInterrupt:
            return 0


def _serve(arguments: argparse.Namespace, host: str, token: str | None, out: TextIO) -> int:
    from mlkit.plan import plan
    from mlkit.serving.bundle import pack
    from mlkit.serving.control.flags import free_port
    from mlkit.serving.control.haproxy import Tls
    from mlkit.serving.kernel.deployment import check_machine, deploy_to
    from mlkit.serving.kernel.session import Session
    from mlkit.serving.limits import Limits

    # Problems of the pipeline, and of files, are reported before any process starts.
    session_port, tls = arguments.port or None, None
    if arguments.certfile is not None:
        tls = Tls(host, session_port or free_port(), arguments.certfile, arguments.keyfile)
        tls.check()
        host, session_port = "127.0.0.1", None  # for the session's own requests
    planned = plan(
        load(arguments.target), layout=arguments.layout, num_replicas=arguments.num_replicas
    )
    check_machine(planned)
    packed = pack(planned)
    session = Session.start(host=host, port=session_port, tls=tls, lease_s=0, say=say)
    try:
        app = deploy_to(
            session,
            planned,
            packed,
            token=token,
            limits=Limits(),
            workers=arguments.workers,
            say=say,
        )
        if token == "":
            say(f"generated a token; try: {app.curl()}")
        url = app.url if tls is None else f"https://{tls.reached_at}/{planned.graph.name}"
        print(f"ready: {url}", file=out, flush=True)
        return _watch(session)
    finally:
        ignore_signals()
        say("stopping")
        session.stop()


def _watch(session: Session) -> int:
    """Wait for a signal, which raises KeyboardInterrupt; returns only if the session dies."""
    while session.running:
        time.sleep(WATCH_S)
    say("error: the session process died; shutting down")
    return 1


def _token(arguments: argparse.Namespace, environment: Mapping[str, str]) -> str | None:
    """The token that requests must carry: None for no authentication, "" to generate one."""
    if arguments.no_token:
        if not LOOPBACK.fullmatch(arguments.host):
            raise UsageError(
                f"--no-token requires a loopback address, and --host is {arguments.host}; "
                "set MLKIT_TOKEN instead"
            )
        return None
    token = environment.get("MLKIT_TOKEN")
    if token is None:
        return ""
    if not re.fullmatch(r"[!-~]+", token):
        raise UsageError("MLKIT_TOKEN must be a non-empty string of printable ASCII characters")
    return token


def _claim(host: str, port: int) -> None:
    """Fail early if the port is taken: HAProxy binds it only seconds later."""
    import socket

    with socket.socket() as probe:
        # As HAProxy does, so that connections in TIME_WAIT do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise MlkitError(
                f"cannot listen on {host}:{port}: {error.strerror}",
                fix="stop the process that uses it, or pass another --port (0 for a free one)",
            ) from None

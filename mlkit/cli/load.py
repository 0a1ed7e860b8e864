"""``mlkit load``: a load test of a URL."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.cli.arguments import Commands, UsageError, count, positive, url
from mlkit.errors import LoadError

if TYPE_CHECKING:
    from mlkit.load import LoadResult, Verdict

__all__ = ["add", "run"]

EXIT_CODES = {"met": 0, "missed": 1, "undecided": 3}
"""By the outcome; 2 is a usage error, as everywhere."""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "load",
        help="load-test a URL",
        description="Send requests at a rate, or by a number of clients in a closed loop, and "
        "report latency from the scheduled send.",
        epilog="Exit codes: 0 if the objective was met, or none was given; 1 if it was missed, if "
        "no request succeeded, or if nothing answers; 2 for a usage error; 3 if it is undecided: "
        "the test was too short or too close, void, or interrupted. Met and missed take evidence, "
        "with 99% confidence.",
    )
    parser.add_argument("url", type=url, metavar="URL", help="http or https URL of any server")
    load = parser.add_mutually_exclusive_group(required=True)
    load.add_argument("--rate", type=positive, help="requests per second, as a Poisson process")
    load.add_argument("--clients", type=count, help="closed loop: each sends on its response")
    parser.add_argument("--constant", action="store_true", help="evenly spaced instead of Poisson")
    parser.add_argument(
        "--duration", type=positive, default=30.0, metavar="S", help="seconds (%(default)g)"
    )
    parser.add_argument(
        "--warmup", type=positive, default=1.0, metavar="S", help="seconds before (%(default)g)"
    )
    parser.add_argument(
        "--timeout", type=positive, default=30.0, metavar="S", help="of a request (%(default)g)"
    )
    for percentile in ("p50", "p95", "p99", "p99-9"):
        parser.add_argument(
            f"--slo-{percentile}-ms", type=positive, metavar="MS", help=argparse.SUPPRESS
        )
    parser.add_argument_group(
        "objectives", "--slo-p50-ms, --slo-p95-ms, --slo-p99-ms, --slo-p99-9-ms: limits in ms"
    )
    body = parser.add_argument_group("payloads", "all of them in turn; without one, GET")
    body.add_argument(
        "--data", action="append", default=[], metavar="JSON", help="a JSON body; repeatable"
    )
    body.add_argument(
        "--lines", type=Path, metavar="FILE", help="a file with a JSON body in each line"
    )
    body.add_argument(
        "--file", action="append", default=[], type=Path, metavar="FILE",
        help="a file as a raw body, or a folder of such files; repeatable",
    )  # fmt: skip
    parser.add_argument("--method", help="POST with a body, else GET")
    parser.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", help="repeatable"
    )
    parser.add_argument(
        "--token-env", metavar="NAME", help="environment variable with a bearer token to send"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the schedule (%(default)s)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the raw records (.npz)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the test and print its figures."""
    from mlkit.load import SLO, closed, constant, load_test, poisson

    limits = {
        name: getattr(arguments, f"slo_{name}")
        for name in ("p50_ms", "p95_ms", "p99_ms", "p99_9_ms")
        if getattr(arguments, f"slo_{name}") is not None
    }
    try:
        slo = SLO(**limits) if limits else None
    except LoadError as error:
        raise UsageError(error.what) from None
    if arguments.seed < 0:
        raise UsageError("--seed must be at least 0")
    arrivals: Any = closed(concurrency=arguments.clients) if arguments.clients else None
    if arrivals is None and arguments.constant:
        arrivals = constant(rate=arguments.rate)
    elif arrivals is None:
        arrivals = poisson(rate=arguments.rate, seed=arguments.seed)
    result = load_test(
        arguments.url,
        _requests(arguments, os.environ),
        arrivals,
        duration_s=arguments.duration,
        warmup_s=arguments.warmup,
        timeout_s=arguments.timeout,
        slo_ms=limits.get("p99_ms"),
        progress=sys.stderr.isatty(),
        seed=arguments.seed,
    )
    if arguments.save is not None:
        result.save(arguments.save)
    verdict = None if slo is None else result.verdict(slo)
    if arguments.json:
        words = {} if verdict is None else {"outcome": verdict.outcome, "reason": verdict.reason}
        print(json.dumps(_finite({**result.summary(), **words})))
    else:
        print(result)
        if verdict is not None:
            print(f"{slo}: {verdict}")
    return _exit_code(result, verdict)


def _exit_code(result: LoadResult, verdict: Verdict | None) -> int:
    if len(result) and not result.ok.any():
        return 1
    if verdict is not None and verdict.outcome != "undecided":
        return EXIT_CODES[verdict.outcome]
    return EXIT_CODES["undecided"] if verdict or result.void or result.interrupted else 0


def _finite(value: Any) -> Any:
    """Replace what JSON has no form for: infinities become "inf", NaN becomes null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    return value


def _requests(arguments: argparse.Namespace, environment: Mapping[str, str]) -> list[Any]:
    """The requests to send: one per payload, with headers and method as given."""
    from mlkit.load.requests import HttpRequest, preparer

    headers = dict(_header(text) for text in arguments.header)
    if arguments.token_env is not None:
        if not environment.get(arguments.token_env):
            raise UsageError(f"--token-env: {arguments.token_env} is not set")
        headers["Authorization"] = f"Bearer {environment[arguments.token_env]}"
    prepare = preparer(arguments.url).prepare
    prepared = [prepare(payload) for payload in _payloads(arguments) or [None]]
    return [
        HttpRequest(
            method=(arguments.method or request.method).upper(),
            url=request.url,
            headers={**request.headers, **headers},
            body=request.body,
        )
        for request in prepared
    ]


def _payloads(arguments: argparse.Namespace) -> list[Any]:
    payloads = [_json(text, "--data") for text in arguments.data]
    if arguments.lines is not None:
        lines = _read(arguments.lines, "--lines").decode("utf-8", "replace").splitlines()
        payloads += [_json(line, "--lines") for line in lines if line.strip()]
    files = [
        file
        for path in arguments.file
        for file in (sorted(filter(Path.is_file, path.iterdir())) if path.is_dir() else [path])
    ]
    payloads += [_read(file, "--file") for file in files]
    if not payloads and (arguments.lines is not None or arguments.file):
        raise UsageError("there is no payload in the given files")
    return payloads


def _json(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"{option}: not JSON: {error}") from None


def _read(file: Path, option: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{option} {file}: {error.strerror}") from None


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise UsageError(f"--header {text!r}: not 'NAME: VALUE'")
    return name.strip(), value.strip()

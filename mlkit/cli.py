"""The command line: ``mlkit serve``, ``grpc``, ``load``, ``export``, ``verify``, ``doctor``.

Exit codes: 0 on success and after a requested shutdown, 1 on errors, 2 on usage errors. Of
``mlkit load`` with an objective: 0 if it was met, 1 if it was missed, 3 if it is undecided.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mlkit import __version__
from mlkit.errors import LoadError, MissingExtra, MlkitError

if TYPE_CHECKING:
    from mlkit import Pipeline
    from mlkit.load import LoadResult, Verdict
    from mlkit.serving.kernel.session import Session

__all__ = ["main"]

LOOPBACK = re.compile(r"127(\.\d+){3}|localhost")
WATCH_S = 0.5
EXIT_CODES = {"met": 0, "missed": 1, "undecided": 3}
"""Of ``mlkit load``; 2 is a usage error, as everywhere."""


class UsageError(Exception):
    """The command line is invalid."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        argv: command-line arguments without the program name; ``sys.argv[1:]`` by default.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        code: int = arguments.run(arguments)
        return code
    except UsageError as error:
        _say(f"error: {error}")
        return 2
    except MlkitError as error:
        _say(f"error: {error}")
        return 1
    except BrokenPipeError:  # the reader of stdout has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlkit",
        description="Serve inference pipelines, load-test servers and check this machine.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_serve(commands)
    _add_grpc(commands)
    _add_export(commands)
    _add_verify(commands)
    _add_map(commands)
    _add_load(commands)
    _add_doctor(commands)
    dashboard = commands.add_parser("dashboard", help="print a dashboard for Grafana, in JSON")
    dashboard.set_defaults(run=_dashboard)
    version = commands.add_parser("version", help="print the version")
    version.set_defaults(run=_version)
    return parser


def _add_serve(commands: Any) -> None:
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
        "--port", type=_port, default=8000, help="port to bind to (%(default)s); 0 for a free one"
    )
    parser.add_argument(
        "--no-token", action="store_true", help="disable authentication; only on a loopback address"
    )
    parser.add_argument(
        "--num-replicas", type=_count, default=1, help="replicas that answer HTTP (%(default)s)"
    )
    parser.add_argument(
        "--layout",
        choices=("fused", "per_step"),
        default="fused",
        help="all steps in one process, or one stage per step (%(default)s)",
    )
    parser.add_argument(
        "--workers", type=_count, help="worker threads per replica (its cores plus two)"
    )
    parser.set_defaults(run=_serve)


def _add_grpc(commands: Any) -> None:
    parser = commands.add_parser(
        "grpc",
        help="answer gRPC for an app that serves",
        description="Answer calls of the Open Inference Protocol over gRPC by an app's routes "
        "under /v2, with its tokens, limits and deadlines. Prints one line, `ready: HOST:PORT`, "
        "and shuts down on SIGINT or SIGTERM.",
        epilog="Calls carry the app's bearer token in their metadata: authorization.",
    )
    parser.add_argument(
        "url", metavar="URL", help="base URL of the app, such as http://127.0.0.1:8000"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to bind to (%(default)s)")
    parser.add_argument(
        "--port", type=_port, default=9000, help="port to bind to (%(default)s); 0 for a free one"
    )
    parser.add_argument(
        "--max-body-bytes",
        type=_count,
        default=20 * 2**20,
        metavar="N",
        help="the app's own limit (%(default)s)",
    )
    parser.set_defaults(run=_grpc)


def _add_load(commands: Any) -> None:
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
    parser.add_argument("url", metavar="URL", help="http or https URL of any server")
    load = parser.add_mutually_exclusive_group(required=True)
    load.add_argument("--rate", type=_positive, help="requests per second, as a Poisson process")
    load.add_argument("--clients", type=_count, help="closed loop: each sends on its response")
    parser.add_argument("--constant", action="store_true", help="evenly spaced instead of Poisson")
    parser.add_argument(
        "--duration", type=_positive, default=30.0, metavar="S", help="seconds (%(default)g)"
    )
    parser.add_argument(
        "--warmup", type=_positive, default=1.0, metavar="S", help="seconds before (%(default)g)"
    )
    parser.add_argument(
        "--timeout", type=_positive, default=30.0, metavar="S", help="of a request (%(default)g)"
    )
    for percentile in ("p50", "p95", "p99", "p99-9"):
        parser.add_argument(
            f"--slo-{percentile}-ms", type=_positive, metavar="MS", help=argparse.SUPPRESS
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
    parser.set_defaults(run=_load)


def _add_doctor(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="check the installation and this machine",
        description="Report installed versions, the capabilities of this machine, and problems. "
        "Exits with 1 if a problem prevents serving.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_doctor)


def _add_export(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="write a pipeline to a folder that is deployed without its notebook",
        description="Write a pipeline to a folder: its code, data, requirements, configurations "
        "for Serve, KubeRay and Docker, and golden requests. Of a notebook, only those statements "
        "are executed that the pipeline needs.",
    )
    parser.add_argument(
        "target",
        metavar="SOURCE:PIPELINE",
        help="notebook or module with the pipeline, such as notebooks/01_define.ipynb:species",
    )
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument(
        "--examples",
        type=Path,
        metavar="FILE",
        help="JSON list of inputs for golden requests, as in pipeline.map",
    )
    parser.set_defaults(run=_export)


def _add_verify(commands: Any) -> None:
    parser = commands.add_parser(
        "verify",
        help="compare an exported pipeline with its golden requests",
        description="Send the golden requests of an export to its module in a fresh process, and "
        "compare the answers. Exits with 1 if one differs.",
        epilog="A server is sent the bearer token in MLKIT_TOKEN.",
    )
    parser.add_argument("folder", type=Path, help="the exported folder")
    parser.add_argument("--url", help="send them to this server as well")
    parser.add_argument(
        "--serve", action="store_true", help="send them to the folder under `serve run` as well"
    )
    parser.set_defaults(run=_verify)


def _add_map(commands: Any) -> None:
    parser = commands.add_parser(
        "map",
        help="run a pipeline on data larger than memory",
        description="Run a pipeline on Parquet files, or on the files of a folder, by Ray Data. "
        "The same command continues after an interrupt.",
    )
    parser.add_argument("target", metavar="MODULE:PIPELINE", help="pipeline to run")
    parser.add_argument("source", help="path or URI of Parquet files, or of a folder of files")
    parser.add_argument("output", help="folder for the results")
    parser.add_argument("--id", metavar="COLUMN", help="column that identifies a row")
    parser.add_argument(
        "--address", default="local", help="of a Ray cluster; by default, Ray is started here"
    )
    parser.add_argument(
        "--batch-size", type=_count, default=512, metavar="N",
        help="rows that a worker takes at a time (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--workers", type=_count, metavar="N", help="processes at most")
    parser.set_defaults(run=_map)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"an integer from 0 to 65535, not {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"an integer of at least 1, not {text!r}")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"a number above 0, not {text!r}")
    return value


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _version(arguments: argparse.Namespace) -> int:
    print(f"mlkit {__version__}")
    return 0


def _dashboard(arguments: argparse.Namespace) -> int:
    from mlkit.metrics.grafana import dashboard

    print(json.dumps(dashboard(), indent=2))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from mlkit.serving.kernel.doctor import examine

    report = examine(_capabilities())
    print(report.to_json() if arguments.json else report)
    return 0 if report.healthy else 1


def _capabilities() -> dict[str, str]:
    """Capabilities of this machine for models; a library that fails to load is reported."""
    try:
        from mlkit.models.target import cpu_has_bf16, cuda_available
    except MissingExtra as error:
        return {"models": f"{error.what}; {error.fix}"}

    def probe(check: Callable[[], bool], yes: str, no: str) -> str:
        try:
            return yes if check() else no
        except Exception as error:
            return f"unknown: {type(error).__name__}: {error}"

    return {
        "CPU precision": probe(cpu_has_bf16, "bf16, fp32", "fp32"),
        "CUDA": probe(cuda_available, "yes", "no"),
    }


# ---- export ---------------------------------------------------------------------------------


def _export(arguments: argparse.Namespace) -> int:
    folder = arguments.folder.absolute()
    examples = None if arguments.examples is None else _examples(arguments.examples)
    source, _, name = arguments.target.rpartition(":")
    if source.endswith(".ipynb"):
        from mlkit.export.notebook import pipeline_of

        pipeline = pipeline_of(Path(source), name)
    else:
        pipeline = load(arguments.target)
    from mlkit.export import export

    print(export(pipeline, folder, examples=examples))
    return 0


def _examples(file: Path) -> list[Any]:
    try:
        examples = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--examples {file}: {error}") from None
    if not isinstance(examples, list):
        raise UsageError(f"--examples {file}: not a list")
    return examples


def _verify(arguments: argparse.Namespace) -> int:
    from mlkit.export import verify

    outcome = verify(arguments.folder, url=arguments.url, serve=arguments.serve)
    print(outcome)
    return 0 if outcome.equal else 1


def _map(arguments: argparse.Namespace) -> int:
    from mlkit.serving import map_dataset

    pipeline = load(arguments.target)
    try:
        with _interrupt_on_signals():
            outcome = map_dataset(
                pipeline,
                arguments.source,
                arguments.output,
                id=arguments.id,
                address=arguments.address,
                batch_size=arguments.batch_size,
                workers=arguments.workers,
                progress=sys.stderr.isatty(),
            )
    except KeyboardInterrupt:
        _say("interrupted; the same command continues")
        return 130
    print(outcome)
    return 0


# ---- load -----------------------------------------------------------------------------------


def _load(arguments: argparse.Namespace) -> int:
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
    if not arguments.url.startswith(("http://", "https://")):
        raise UsageError(f"{arguments.url!r} is not a URL like http://127.0.0.1:8000/tag")
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


# ---- serve ----------------------------------------------------------------------------------


def _serve(arguments: argparse.Namespace) -> int:
    token = _token(arguments, os.environ)
    # Child processes must not inherit it.
    os.environ.pop("MLKIT_TOKEN", None)
    host = _address(arguments.host)
    _claim(host, arguments.port)
    out = sys.stdout
    # stdout is reserved for the `ready` line; output of the pipeline's module goes to stderr.
    with redirect_stdout(sys.stderr), _interrupt_on_signals():
        try:
            return _run(arguments, host, token, out)
        except KeyboardInterrupt:
            return 0


def _run(arguments: argparse.Namespace, host: str, token: str | None, out: TextIO) -> int:
    from mlkit.plan import plan
    from mlkit.serving.bundle import pack
    from mlkit.serving.kernel.deployment import check_machine, deploy_to
    from mlkit.serving.kernel.session import Session
    from mlkit.serving.limits import Limits

    # Problems of the pipeline are reported before any process starts.
    planned = plan(
        load(arguments.target), layout=arguments.layout, num_replicas=arguments.num_replicas
    )
    check_machine(planned)
    packed = pack(planned)
    session = Session.start(host=host, port=arguments.port or None, lease_s=0, say=_say)
    try:
        app = deploy_to(
            session,
            planned,
            packed,
            token=token,
            limits=Limits(),
            workers=arguments.workers,
            say=_say,
        )
        if token == "":
            _say(f"generated a token; try: {app.curl()}")
        print(f"ready: {app.url}", file=out, flush=True)
        return _watch(session)
    finally:
        _ignore_signals()
        _say("stopping")
        session.stop()


def _grpc(arguments: argparse.Namespace) -> int:
    import asyncio

    from mlkit.serving.gateway.server import Gateway, run

    if not arguments.url.startswith(("http://", "https://")):
        raise UsageError(f"{arguments.url!r} is not a URL like http://127.0.0.1:8000")
    host = _address(arguments.host)
    gateway = Gateway(arguments.url, host, arguments.port, arguments.max_body_bytes)
    asyncio.run(run(gateway, lambda address: print(f"ready: {address}", flush=True)))
    return 0


def _watch(session: Session) -> int:
    """Wait for a signal, which raises KeyboardInterrupt; returns only if the session dies."""
    import time

    while session.running:
        time.sleep(WATCH_S)
    _say("error: the session process died; shutting down")
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


def _address(host: str) -> str:
    """Resolve a host name to an IPv4 address."""
    import socket

    try:
        addresses = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UsageError(f"--host {host}: neither an IPv4 address nor a resolvable name") from None
    return str(addresses[0][4][0])


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


def load(target: str) -> Pipeline[..., Any]:
    """Import the pipeline ``MODULE:NAME``; the working directory is on the search path.

    Raises:
        UsageError: the module or the name does not exist, or is not a pipeline.
        MlkitError: importing the module raises.
    """
    from mlkit import Pipeline

    module, _, name = target.partition(":")
    if not module or not name:
        raise UsageError(f"{target!r} is not MODULE:PIPELINE, such as mlkit.tagging:tag")
    if "/" in module or module.endswith(".py"):
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        raise UsageError(f"{module!r} is a file; pass the module: {dotted}:{name}")
    value: Any = _module(module)
    for part in name.split("."):
        if not hasattr(value, part):
            raise UsageError(f"module {module!r} has no {name!r}{_pipelines_of(value)}")
        value = getattr(value, part)
    if not isinstance(value, Pipeline):
        kind = type(value).__name__
        raise UsageError(f"{target} is a {kind}, not a pipeline{_pipelines_of(_module(module))}")
    return value


def _module(name: str) -> Any:
    import importlib

    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(f"no module named {error.name!r} (searched {here} as well)") from None
        raise _import_failed(name, error) from error
    except Exception as error:
        raise _import_failed(name, error) from error


def _import_failed(name: str, error: Exception) -> MlkitError:
    frames = traceback.extract_tb(error.__traceback__)
    place = next((f for f in reversed(frames) if "importlib" not in f.filename), None)
    return MlkitError(
        f"importing {name!r} failed: {type(error).__name__}: {error}",
        where=f"{place.filename}, line {place.lineno}" if place else None,
    )


def _pipelines_of(module: Any) -> str:
    from mlkit import Pipeline

    names = [k for k, v in vars(module).items() if isinstance(v, Pipeline)]
    return f"; its pipelines are: {', '.join(names)}" if names else ""


@contextmanager
def _interrupt_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, and on SIGINT even if a shell has it ignored."""
    names = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(name, _interrupt) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


def _interrupt(number: int, frame: Any) -> None:
    _ignore_signals()  # further signals must not interrupt the shutdown
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())

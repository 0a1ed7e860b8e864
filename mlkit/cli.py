"""The command line: ``mlkit serve``, ``mlkit doctor``, ``mlkit version``.

Exit codes: 0 for success (also for a server that was told to end), 1 for what went wrong, 2 for a
command that was not written as it should be.
"""

from __future__ import annotations

import argparse
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
from mlkit.errors import MlkitError

if TYPE_CHECKING:
    from mlkit import Pipeline
    from mlkit.serving.kernel.session import Session

__all__ = ["main"]

LOOPBACK = re.compile(r"127(\.\d+){3}|localhost")
WATCH_S = 0.5


class UsageError(Exception):
    """The command is not written as it should be."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code.

    Args:
        argv: the arguments after the program's name; the process's own by default.
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
    except BrokenPipeError:  # whoever read what is printed has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlkit", description="Inference pipelines: serve one, look at this machine."
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_serve(commands)
    _add_doctor(commands)
    version = commands.add_parser("version", help="print the version")
    version.set_defaults(run=_version)
    return parser


def _add_serve(commands: Any) -> None:
    parser = commands.add_parser(
        "serve",
        help="serve a pipeline over HTTP until told to end",
        description="Serve a pipeline over HTTP. Prints one line, `ready: URL`, when it answers, "
        "and ends on SIGINT or SIGTERM.",
        epilog="Callers send a bearer token: the one in MLKIT_TOKEN, or one that is made.",
    )
    parser.add_argument(
        "target", metavar="MODULE:PIPELINE", help="what to serve, such as mlkit.tagging:tag"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=_port, default=8000, help="port to listen on (%(default)s); 0 for a free one"
    )
    parser.add_argument(
        "--no-token", action="store_true", help="ask for no token; only on a loopback address"
    )
    parser.add_argument(
        "--num-replicas", type=_count, default=1, help="processes that answer (%(default)s)"
    )
    parser.add_argument(
        "--layout",
        choices=("fused", "per_step"),
        default="fused",
        help="whether steps share a process or have each their own (%(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=_count,
        help="threads of a replica that run steps (two more than its cores)",
    )
    parser.set_defaults(run=_serve)


def _add_doctor(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="say what is installed, what this machine can do, and what is in the way",
        description="Say what is installed, what this machine can do, and what is in the way. "
        "Exit code 1 if something is.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_doctor)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"a number of 1 or more, not {text!r}")
    return int(text)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _version(arguments: argparse.Namespace) -> int:
    print(f"mlkit {__version__}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from mlkit.serving.kernel.doctor import examine

    found = examine(_capabilities())
    print(found.to_json() if arguments.json else found)
    return 0 if found.healthy else 1


def _capabilities() -> dict[str, str]:
    """What models can use of this machine; a library that does not load is an answer too."""
    from mlkit.models.target import cpu_has_bf16, cuda_available

    def ask(question: Callable[[], bool], yes: str, no: str) -> str:
        try:
            return yes if question() else no
        except Exception as error:
            return f"unknown: {type(error).__name__}: {error}"

    return {
        "CPU precision": ask(cpu_has_bf16, "bf16, fp32", "fp32"),
        "CUDA": ask(cuda_available, "yes", "no"),
    }


# ---- serve ----------------------------------------------------------------------------------


def _serve(arguments: argparse.Namespace) -> int:
    token = _token(arguments, os.environ)
    # It is for the front end alone: no process that is started here has a use for it.
    os.environ.pop("MLKIT_TOKEN", None)
    host = _address(arguments.host)
    _claim(host, arguments.port)
    out = sys.stdout
    # What the pipeline's module prints is not the one line that is promised on stdout.
    with redirect_stdout(sys.stderr), _ends_on_signal():
        try:
            return _run(arguments, host, token, out)
        except KeyboardInterrupt:
            return 0


def _run(arguments: argparse.Namespace, host: str, token: str | None, out: TextIO) -> int:
    from mlkit.plan import plan
    from mlkit.serving.bundle import pack
    from mlkit.serving.kernel.deployment import deploy_to
    from mlkit.serving.kernel.session import Session
    from mlkit.serving.limits import Limits

    # Before anything starts: it may have problems.
    planned = plan(
        load(arguments.target), layout=arguments.layout, num_replicas=arguments.num_replicas
    )
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
            _say(f"a token was made; call it like this: {app.curl()}")
        print(f"ready: {app.url}", file=out, flush=True)
        return _watch(session)
    finally:
        _ignore_signals()
        _say("stopping")
        session.stop()


def _watch(session: Session) -> int:
    """Wait for a signal, which raises KeyboardInterrupt; return only if the session dies."""
    import time

    while session.running:
        time.sleep(WATCH_S)
    _say("error: the session process is gone; nothing is served any more")
    return 1


def _token(arguments: argparse.Namespace, environment: Mapping[str, str]) -> str | None:
    """The token to ask for: None for none, "" for one that is to be made."""
    if arguments.no_token:
        if not LOOPBACK.fullmatch(arguments.host):
            raise UsageError(
                f"--no-token is for a loopback address only, and --host is {arguments.host}; "
                "set MLKIT_TOKEN instead"
            )
        return None
    token = environment.get("MLKIT_TOKEN")
    if token is None:
        return ""
    if not re.fullmatch(r"[!-~]+", token):
        raise UsageError("MLKIT_TOKEN is empty, or has other than printable ASCII characters in it")
    return token


def _address(host: str) -> str:
    """The IPv4 address of a host's name."""
    import socket

    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UsageError(f"--host {host}: not an IPv4 address or a name of one") from None
    return str(found[0][4][0])


def _claim(host: str, port: int) -> None:
    """Fail at once where a port cannot be had: the front end opens it only seconds later."""
    import socket

    with socket.socket() as probe:
        # As the front end does it: what a former one left in TIME_WAIT is not in the way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise MlkitError(
                f"cannot listen on {host}:{port}: {error.strerror}",
                fix="end what listens there, or give another --port (0 takes any free one)",
            ) from None


def load(target: str) -> Pipeline[..., Any]:
    """The pipeline that ``MODULE:NAME`` names; modules are looked for in the working folder too.

    Raises:
        UsageError: there is no such module or name, or it is not a pipeline.
        MlkitError: the module raises while it is imported.
    """
    from mlkit import Pipeline

    module, _, name = target.partition(":")
    if not module or not name:
        raise UsageError(f"{target!r} is not MODULE:PIPELINE, such as mlkit.tagging:tag")
    if "/" in module or module.endswith(".py"):
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        raise UsageError(f"{module!r} is a file; name the module: {dotted}:{name}")
    found: Any = _module(module)
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"module {module!r} has no {name!r}{_pipelines_of(found)}")
        found = getattr(found, part)
    if not isinstance(found, Pipeline):
        kind = type(found).__name__
        raise UsageError(f"{target} is a {kind}, not a pipeline{_pipelines_of(_module(module))}")
    return found


def _module(name: str) -> Any:
    import importlib

    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(f"there is no module {error.name!r} (looked in {here} too)") from None
        raise _broken(name, error) from error
    except Exception as error:
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> MlkitError:
    frames = traceback.extract_tb(error.__traceback__)
    place = next((f for f in reversed(frames) if "importlib" not in f.filename), None)
    return MlkitError(
        f"module {name!r} raises while it is imported: {type(error).__name__}: {error}",
        where=f"{place.filename}, line {place.lineno}" if place else None,
    )


def _pipelines_of(module: Any) -> str:
    from mlkit import Pipeline

    names = [k for k, v in vars(module).items() if isinstance(v, Pipeline)]
    return f"; its pipelines are: {', '.join(names)}" if names else ""


@contextmanager
def _ends_on_signal() -> Iterator[None]:
    """Raise KeyboardInterrupt for SIGTERM as for SIGINT, which a shell may have switched off."""
    names = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(name, _interrupt) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


def _interrupt(number: int, frame: Any) -> None:
    _ignore_signals()  # one is enough; what follows is the orderly end
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())

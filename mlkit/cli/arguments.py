"""Values of command-line arguments, and the error that a wrong one is."""

from __future__ import annotations

import argparse
import math
import socket
import sys
from typing import TypeAlias

__all__ = ["Commands", "UsageError", "address", "count", "port", "positive", "say", "url"]

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class UsageError(Exception):
    """The command line is invalid."""


def port(text: str) -> int:
    """Parse a port."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"an integer from 0 to 65535, not {text!r}")
    return int(text)


def count(text: str) -> int:
    """Parse a positive integer."""
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"an integer of at least 1, not {text!r}")
    return int(text)


def positive(text: str) -> float:
    """Parse a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"a number above 0, not {text!r}")
    return value


def url(text: str) -> str:
    """Check a URL."""
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL like http://127.0.0.1:8000")
    return text


def address(host: str) -> str:
    """Resolve a host name to an IPv4 address."""
    try:
        addresses = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UsageError(f"--host {host}: neither an IPv4 address nor a resolvable name") from None
    return str(addresses[0][4][0])


def say(text: str) -> None:
    """Print a message to stderr."""
    print(text, file=sys.stderr, flush=True)

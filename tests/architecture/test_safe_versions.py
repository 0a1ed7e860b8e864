"""No release with a known hole that matters here is locked, or allowed by a lower bound."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

SAFE_SINCE = {
    "aiohttp": ("3.13.3", "CVE-2025-69223: a compressed body that expands without limit"),
    "certifi": ("2024.7.4", "CVE-2024-39689: a root certificate that is not trusted any more"),
    "cryptography": ("44.0.1", "CVE-2024-12797: TLS peers that are not authenticated"),
    "h11": ("0.16.0", "CVE-2025-43859: request smuggling by malformed chunks"),
    "idna": ("3.7", "CVE-2024-3651: quadratic time for a crafted host name"),
    "jinja2": ("3.1.6", "CVE-2025-27516: a way out of the sandbox"),
    "joblib": ("1.2.0", "CVE-2022-21797: eval of an argument"),
    "pillow": ("11.3.0", "CVE-2025-48379: heap overflow"),
    "protobuf": ("6.31.1", "CVE-2025-4565: unbounded recursion while parsing"),
    "pyarrow": ("14.0.1", "CVE-2023-47248: code execution by an IPC or Parquet file"),
    "python-multipart": ("0.0.18", "CVE-2024-53981: a crafted form keeps a core busy"),
    "pyyaml": ("5.4", "CVE-2020-14343: code execution by yaml.full_load"),
    "ray": ("2.52.0", "CVE-2025-62593: code execution by a page in a browser"),
    "requests": ("2.32.4", "CVE-2024-47081: credentials of .netrc sent to another host"),
    "setuptools": ("78.1.1", "CVE-2025-47273: path traversal in PackageIndex"),
    "starlette": ("0.49.1", "CVE-2025-62727: quadratic time for a crafted Range header"),
    "torch": ("2.6.0", "CVE-2025-32434: code execution by torch.load(weights_only=True)"),
    "tornado": ("6.5", "CVE-2025-47287: a crafted form blocks the event loop"),
    "urllib3": ("2.6.0", "CVE-2025-66418: an unbounded chain of decompressions"),
}
"""The first release without the hole, and the newest hole that it is without; by distribution."""

TOO_OLD = [("pillow==11.2.1", "pillow"), ("Python_Multipart>=0.0.17", "python-multipart")]


def unsafe(requirements: list[Requirement]) -> Iterator[str]:
    """Yield what pins, or allows, a release before the first safe one."""
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        if name not in SAFE_SINCE:
            continue
        least, reason = SAFE_SINCE[name]
        bounds = [s.version for s in requirement.specifier if s.operator in ("==", ">=")]
        if not any(Version(bound) >= Version(least) for bound in bounds):
            yield f"{name}: {requirement.specifier} allows less than {least} ({reason})"


@pytest.fixture(scope="module")
def locked(repository: Path) -> list[Requirement]:
    lines = (repository / "requirements.lock").read_text().splitlines()
    return [Requirement(line.split("#")[0]) for line in lines if not line.startswith("#")]


def test_the_lock_has_no_release_with_a_known_hole(locked: list[Requirement]) -> None:
    assert list(unsafe(locked)) == []
    assert SAFE_SINCE.keys() <= {canonicalize_name(pin.name) for pin in locked}


def test_no_lower_bound_allows_one(repository: Path) -> None:
    project: dict[str, Any] = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    assert list(unsafe([Requirement(text) for text in asked])) == []


@pytest.mark.parametrize(("text", "name"), TOO_OLD)
def test_an_old_release_is_found_however_it_is_written(text: str, name: str) -> None:
    assert [found.partition(":")[0] for found in unsafe([Requirement(text)])] == [name]

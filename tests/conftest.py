"""What all tests share: where the repository is, and which tests this machine can run."""

from __future__ import annotations

import datetime
import gc
import os
import shutil
import signal
import tempfile
from pathlib import Path

import hypothesis
import pytest

from mlkit.serving.port.imports import deferred_grammar

with deferred_grammar():
    import jsonschema  # noqa: F401  # as it is imported with Ray, at half the time

# A pause of the machine is no failure.
hypothesis.settings.register_profile("mlkit", deadline=None)
hypothesis.settings.load_profile("mlkit")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    """Returns the path of an installed Chromium, if there is one."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Checks the marks that the Makefile selects by; skips browser tests where no browser is."""
    for item in items:
        if "live" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("serve"):
            raise pytest.UsageError(f"{item.nodeid} uses Ray, and is not marked `serve`")
    if find_browser() or os.environ.get("CI"):  # under CI, a missing browser is a failure
        return
    skip = pytest.mark.skip(reason="no Chromium here: `make browser` installs one")
    for item in items:
        if "browser" in item.keywords:
            item.add_marker(skip)


def pytest_configure(config: pytest.Config) -> None:
    """Answer to interrupts, and keep load tests out of the user's store of runs.

    A shell in the background may have had interrupts ignored.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = tempfile.TemporaryDirectory(prefix="mlkit-runs-")
    config.add_cleanup(folder.cleanup)
    os.environ["MLKIT_RUNS_DIR"] = folder.name


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root folder."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def browser_path() -> str:
    """The path of an installed Chromium, for tests marked ``browser``."""
    path = find_browser()
    assert path, "no Chromium here: `make browser` installs one"
    return path


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost and its key, as two files."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(secret)
    return tmp_path / "cert.pem", tmp_path / "key.pem"


def pytest_collection_finish() -> None:
    """Keeps what is imported by now out of collections, which would look through it each time."""
    gc.collect()
    gc.freeze()

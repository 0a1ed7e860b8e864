"""An environment for each peer: its own packages, over those of this environment.

What a peer pins otherwise is installed in its own environment and comes first; what it shares, such
as torch, is found in this one by a path file. Nothing is installed here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from mlkit.errors import MlkitError

__all__ = ["FOLDER", "REQUIREMENTS", "environment"]

FOLDER = Path("build/peers")
REQUIREMENTS = {
    "bentoml": "bentoml==1.4.40",
    "litserve": "litserve==0.2.19",
    "mlserver": "mlserver==1.7.1",
    "mosec": "mosec==0.9.8",
}
ROOT = Path(__file__).resolve().parents[2]


def environment(name: str | None, folder: Path = FOLDER) -> Path:
    """The interpreter of a peer's environment, which is made if it is missing.

    Args:
        name: of a peer in `REQUIREMENTS`; None for this environment.
        folder: in which environments are made.

    Raises:
        MlkitError: the peer could not be installed; the log beside its environment says why.
    """
    if name is None:
        return Path(sys.executable)
    home = (folder / name).absolute()
    python, stamp = home / "bin/python", home / "installed.txt"
    wanted = f"{REQUIREMENTS[name]} {sys.version}\n"
    if not stamp.is_file() or stamp.read_text() != wanted:
        shutil.rmtree(home, ignore_errors=True)
        _make(home, python, REQUIREMENTS[name])
        stamp.write_text(wanted)
    return python


def _make(home: Path, python: Path, requirement: str) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    log = home.with_suffix(".log")
    with log.open("wb") as words:

        def run(*command: str | Path) -> None:
            if subprocess.run(command, stdout=words, stderr=words, check=False).returncode:
                raise MlkitError(
                    f"{requirement} could not be installed", fix=f"see {log.name} in {log.parent}"
                )

        run(sys.executable, "-m", "venv", "--without-pip", home)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        shared = home / "lib" / version / "site-packages/shared.pth"
        shared.write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
        run(sys.executable, "-m", "pip", "--python", python, "install", "-q", requirement)

"""Prints environment.yml, made from pyproject.toml.

Conda brings the interpreter and pip. The packages come from pip, at the versions of
requirements.lock, so that one lock says what is tested and one resolver has chosen it.
"""

from __future__ import annotations

import sys
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

HEADER = """\
# Made by `make environment` from pyproject.toml: do not edit it by hand.
#   conda env create --file environment.yml && conda activate {name}
name: {name}
channels:
  - conda-forge
dependencies:
  - python {python}
  - pip
  - pip:
      - --constraint requirements.lock
"""


def render(project: dict[str, Any]) -> str:
    """Returns the file's text for the ``[project]`` table of a pyproject.toml."""
    own = f"{project['name']}["  # an extra that stands for others
    requirements = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    lines = [f"      - {name}\n" for name in requirements if not name.startswith(own)]
    header = HEADER.format(name=project["name"], python=project["requires-python"])
    return header + "".join(lines) + "      - --editable .\n"


def main() -> None:
    """Prints the file for this repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    sys.stdout.write(render(project))


if __name__ == "__main__":
    main()

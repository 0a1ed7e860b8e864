"""The notebooks are read one after the other."""

import json
from itertools import pairwise
from pathlib import Path


def test_each_notebook_ends_with_the_next(repository: Path) -> None:
    files = sorted((repository / "notebooks").glob("[0-9]*.ipynb"))
    assert len(files) > 10
    for file, following in pairwise(files):
        last = json.loads(file.read_text())["cells"][-1]
        assert "[Next: " in "".join(last["source"])
        assert f"]({following.name})" in "".join(last["source"])

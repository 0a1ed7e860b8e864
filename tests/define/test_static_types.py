"""What editors and type checkers make of steps and pipelines."""

import re
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("mypy")

SOURCE = """
from __future__ import annotations
import numpy as np
from mlkit import Image, ImageSource, batched_step, pipeline, resource, step

class Net: ...
def load() -> Net: return Net()

@step
async def download(image: ImageSource) -> bytes: return b""
@step
def decode(data: bytes, *, size: int = 1) -> Image: return Image.open(data)
@batched_step(max_batch_size=16)
def classify(pictures: list[Image], *, net: Net = resource(load)) -> list[str]: return []
@batched_step
def plain(pictures: list[Image]) -> tuple[str, ...]: return ()
@batched_step
def both(pictures: list[Image], titles: list[str]) -> list[int]: return []
@batched_step
def arrays(xs: np.ndarray) -> np.ndarray: return xs
@step
def split(x: int) -> tuple[int, str]: return x, ""
@pipeline
def tag(image: ImageSource, title: str = "") -> str:
    number, text = split(1)
    reveal_type(text)  # str
    return classify(decode(download(image)))

picture = decode(b"", size=3)
reveal_type(picture)  # mlkit.media.image.Image
reveal_type(download("shoe.jpg"))  # bytes
reveal_type(classify(picture))  # str
reveal_type(classify.batch([picture]))  # list[str]
reveal_type(plain(picture))  # str
reveal_type(both(picture, "title"))  # int
reveal_type(arrays(3))  # Any
reveal_type(tag("shoe.jpg", title="shoe"))  # str
reveal_type(tag.replace(decode=decode)("shoe.jpg"))  # str
reveal_type(resource(load))  # net.Net
reveal_type(resource(value=3))  # int
classify.fn([picture], net=Net())
decode(3)  # error: arg-type
download(image=3)  # error: arg-type
classify([picture])  # error: arg-type
both(picture)  # error: call-arg
classify(picture, net=3)  # error: arg-type
tag("shoe.jpg", titel="shoe")  # error: call-arg
resource(load, value=3)  # error: call-overload

@pipeline
def wrong(title: str) -> str:
    return decode(title)  # error: return-value arg-type
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[str]]:
    """What mypy says of the source, strictly, by line."""
    from mypy import api

    folder = tmp_path_factory.mktemp("types")
    (folder / "net.py").write_text(textwrap.dedent(SOURCE))
    root = Path(__file__).parents[2]
    # With the options and the cache of `make lint`: what has not changed is not checked again.
    options = [f"--config-file={root / 'pyproject.toml'}", f"--cache-dir={root / '.mypy_cache'}"]
    output, errors, _ = api.run([*options, str(folder / "net.py")])
    assert not errors
    found: dict[int, list[str]] = {}
    for line, text in re.findall(r"net\.py:(\d+): (.*)", output):
        found.setdefault(int(line), []).append(text)
    return found


LINES = [
    (n, *line.split("  # ")) for n, line in enumerate(SOURCE.splitlines(), 1) if "  # " in line
]


@pytest.mark.parametrize(("number", "line", "expected"), LINES, ids=[line for _, line, _ in LINES])
def test_the_type_checker_knows(
    said: dict[int, list[str]], number: int, line: str, expected: str
) -> None:
    texts = "\n".join(said.get(number, []))
    if expected.startswith("error: "):
        for code in expected.removeprefix("error: ").split():
            assert f"[{code}]" in texts
    else:
        assert f'Revealed type is "{expected}"' in texts.replace("builtins.", "")


def test_it_complains_of_nothing_else(said: dict[int, list[str]]) -> None:
    expected = {number for number, _, _ in LINES}
    assert {n: texts for n, texts in said.items() if n not in expected} == {}

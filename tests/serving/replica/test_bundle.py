"""What a pipeline is packed into, and when two of them are the same."""

import itertools
import subprocess
import sys

import pytest

from mlkit import pipeline, step
from mlkit.errors import DeployError
from mlkit.plan import plan
from mlkit.serving.bundle import digest_of, pack, unpack

SOURCE = """
from mlkit import pipeline, resource, step

def load():
    return open({file!r}).read()

@step
def add(x: int, *, model: str = resource(load, files=[{file!r}])) -> int:
    return x + {more}

@pipeline
def plus(x: int, y: int = {default}) -> int:
    "{doc}"
    return add(x)
"""


@pytest.fixture
def run_cell(tmp_path):
    """Returns a function that runs the source as a cell does, and gives the pipeline's digest."""
    file = tmp_path / "model.txt"
    file.write_text("one")

    def run(*, content=None, lines=0, **parts):
        if content is not None:
            file.write_text(content)
        parts = {"more": 1, "default": 0, "doc": "Add.", "file": str(file), **parts}
        cell = {"__name__": "__main__"}
        exec("\n" * lines + SOURCE.format(**parts), cell)
        return digest_of(cell["plus"].graph)

    return run


def test_the_same_source_run_again_is_the_same(run_cell) -> None:
    assert run_cell() == run_cell(lines=7)


@pytest.mark.parametrize(
    "change", [{"more": 2}, {"default": 5}, {"doc": "Sum."}, {"content": "two"}]
)
def test_a_change_of_code_or_files_is_seen(run_cell, change) -> None:
    assert run_cell() != run_cell(**change)


def test_a_bundle_is_the_same_in_another_process(run_cell, tmp_path) -> None:
    cell = {"__name__": "__main__"}
    exec(SOURCE.format(more=1, default=0, doc="Add.", file=str(tmp_path / "model.txt")), cell)
    (packed,) = pack(plan(cell["plus"]))
    (tmp_path / "bundle").write_bytes(packed.data)
    code = (
        "import sys, pathlib\n"
        "from mlkit.serving.bundle import unpack\n"
        "graph = unpack(pathlib.Path(sys.argv[1]).read_bytes()).graphs['plus']\n"
        "print(graph.name, [n.name for n in graph], [n.step.fn(1, model='') for n in graph])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "plus ['add'] [2]"
    assert packed.digest == digest_of(cell["plus"].graph)


def test_problems_are_all_listed() -> None:
    from mlkit import pipeline, step

    @step
    def add(x: int) -> int:
        return x

    @pipeline
    def wrong(x: str, y: object = None) -> int:
        return add(x)

    with pytest.raises(DeployError, match="in the way") as caught:
        pack(plan(wrong))
    assert "add" in str(caught.value)


def test_a_stage_gets_only_what_runs_there(run_cell, tmp_path) -> None:
    cell = {"__name__": "__main__"}
    exec(SOURCE.format(more=1, default=0, doc="Add.", file=str(tmp_path / "model.txt")), cell)
    front, stage = pack(plan(cell["plus"], layout="per_step"))
    assert front.manifest.resources == {}
    assert list(stage.manifest.resources) == ["add.add.model"]
    (node,) = unpack(stage.data).graphs["add"]
    assert node.step.fn(1, model="") == 2
    (called,) = unpack(front.data).graphs["plus"]
    assert (called.step.stage, called.step.segment) == ("add", "add")


def test_only_the_stage_whose_code_changed_has_another_digest(tmp_path) -> None:
    def digests(more: int, doc: str) -> list[str]:
        cell = {"__name__": "__main__"}
        exec(SOURCE.format(more=more, default=0, doc=doc, file=str(tmp_path / "m")), cell)
        return [one.digest for one in pack(plan(cell["plus"], layout="per_step"))]

    before = digests(1, "Add.")
    assert digests(1, "Add.") == before
    assert digests(2, "Add.")[0] == before[0]
    assert digests(2, "Add.")[1] != before[1]


def test_a_constant_that_each_trace_computes_anew_is_not_deployed() -> None:
    numbers = itertools.count()

    @step
    def look(x: int, number: int) -> int:
        return number

    @pipeline
    def looked(x: int) -> int:
        return look(x, next(numbers))

    with pytest.raises(DeployError, match="computes anew each time"):
        pack(plan(looked), pipeline=looked)

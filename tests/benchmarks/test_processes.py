"""What several processes did at the same time, as one block."""

from benchmarks.processes import merged
from tools.demo.offline import Block


def test_processes_that_work_at_the_same_time_add_up() -> None:
    both = merged([Block(10, 2.0, 1.5), Block(14, 2.5, 2.0)])
    assert both == Block(24, 2.5, 3.5)
    assert both.rate == 24 / 2.5

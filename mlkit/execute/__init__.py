"""Running: one executor for a call here, for many inputs offline, and inside a served replica.

`program.py` makes a graph ready to run, `executor.py` runs it, `run.py` is what happened as data.
Users come here through `mlkit.pipelines`: ``tag(...)``, ``tag.run(...)``, ``tag.map(...)``.
"""

from mlkit.execute.executor import Executor
from mlkit.execute.local import run
from mlkit.execute.offline import map_inputs
from mlkit.execute.program import Program, compile_graph
from mlkit.execute.run import NodeRun, Run

__all__ = ["Executor", "NodeRun", "Program", "Run", "compile_graph", "map_inputs", "run"]

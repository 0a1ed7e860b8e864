"""Execution: one executor for single calls, for many inputs offline, and in served replicas.

`program.py` compiles a graph, `executor.py` runs it, `run.py` holds the recorded values and times.
The public entry points are in `mlkit.pipelines`: ``tag(...)``, ``tag.run(...)``, ``tag.map(...)``.
"""

from mlkit.execute.executor import Executor
from mlkit.execute.local import run, stream
from mlkit.execute.offline import map_inputs
from mlkit.execute.program import Program, compile_graph
from mlkit.execute.run import NodeRun, Run

__all__ = ["Executor", "NodeRun", "Program", "Run", "compile_graph", "map_inputs", "run", "stream"]

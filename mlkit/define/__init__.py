"""Definitions: typed functions become steps, calls of steps are traced into a `Graph`.

Start at `step`, `batched_step` and `resource`. `tracing.py` records calls into a `Graph`
(`graph.py`: plain frozen data); `check.py` lists what keeps it from being deployed; `border.py`
converts values at the border; `shipping.py` sends code to other processes. `mlkit.pipelines` puts
definition and execution together.
"""

from mlkit.define.border import codec
from mlkit.define.graph import Graph, Node, Problem
from mlkit.define.resource import resource
from mlkit.define.routes import branch, each
from mlkit.define.step import BatchedStep, Step, batched_step, step
from mlkit.define.types import ImageSource, Upload

__all__ = [
    "BatchedStep",
    "Graph",
    "ImageSource",
    "Node",
    "Problem",
    "Step",
    "Upload",
    "batched_step",
    "branch",
    "codec",
    "each",
    "resource",
    "step",
]

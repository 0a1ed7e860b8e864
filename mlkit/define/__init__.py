"""Definitions: typed functions become steps, calls of steps are traced into a `Graph`.

Start at `step`, `batched_step` and `resource`. `tracing.py` records calls into a `Graph`
(`graph.py`: plain frozen data); `check.py` lists the problems that block its deployment;
`border.py` converts arguments and results, `conform.py` checks those of steps, and `shipping.py`
pickles code for other processes.
`mlkit.pipelines` puts definition and execution together.
"""

from mlkit.define.graph import Graph, Node, Problem
from mlkit.define.registry import codec
from mlkit.define.resource import resource
from mlkit.define.routes import branch, each
from mlkit.define.step import BatchedStep, Step, batched_step, step
from mlkit.define.tables import Rows
from mlkit.define.types import ImageSource, Upload

__all__ = [
    "BatchedStep",
    "Graph",
    "ImageSource",
    "Node",
    "Problem",
    "Rows",
    "Step",
    "Upload",
    "batched_step",
    "branch",
    "codec",
    "each",
    "resource",
    "step",
]

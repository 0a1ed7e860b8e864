"""Definitions: typed functions become steps, functions that call them become pipelines.

Start at `step`, `batched_step`, `resource` and `pipeline`. A `Pipeline` is traced into a `Graph`
(`graph.py`: plain frozen data); `check.py` lists the problems that block its deployment;
`border.py` converts arguments and results; `shipping.py` pickles code for other processes.
Nothing here runs a pipeline: that is `mlkit.execute`.
"""

from mlkit.define.border import codec
from mlkit.define.graph import Graph, Node, Problem
from mlkit.define.pipeline import Pipeline, pipeline
from mlkit.define.resource import resource
from mlkit.define.routes import branch, each
from mlkit.define.step import BatchedStep, Step, batched_step, step
from mlkit.define.types import ImageSource, Upload

__all__ = [
    "BatchedStep",
    "Graph",
    "ImageSource",
    "Node",
    "Pipeline",
    "Problem",
    "Step",
    "Upload",
    "batched_step",
    "branch",
    "codec",
    "each",
    "pipeline",
    "resource",
    "step",
]

"""Planning: assign the steps of a pipeline to stages, before anything is deployed.

`profile` measures the steps in this process, `plan` assigns them to stages with replicas and
resources, `place` is its rule for replicas and threads, and `cut` splits the graph along the
stages. Nothing here depends on Ray.
"""

from mlkit.plan.cut import Cut, RemoteStep, Segment, cut
from mlkit.plan.placement import Parallelism, place
from mlkit.plan.plan import Layout, Plan, plan
from mlkit.plan.profile import Cost, Latency, Profile, profile
from mlkit.plan.stage import Stage

__all__ = [
    "Cost",
    "Cut",
    "Latency",
    "Layout",
    "Parallelism",
    "Plan",
    "Profile",
    "RemoteStep",
    "Segment",
    "Stage",
    "cut",
    "place",
    "plan",
    "profile",
]

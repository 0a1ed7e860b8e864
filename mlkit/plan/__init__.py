"""From a graph and its steps' options to stages: what runs together, on how much, and why.

`profile` measures the steps here. `plan` says how a pipeline would be deployed, before anything
starts; `cut` divides its graph along the stages. Nothing here knows of Ray.
"""

from mlkit.plan.cut import Cut, RemoteStep, Segment, cut
from mlkit.plan.plan import Layout, Plan, Stage, plan
from mlkit.plan.profile import Latency, Profile, profile

__all__ = [
    "Cut",
    "Latency",
    "Layout",
    "Plan",
    "Profile",
    "RemoteStep",
    "Segment",
    "Stage",
    "cut",
    "plan",
    "profile",
]

"""What a deployment reports when its replicas cannot be scheduled."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mlkit.errors import DeployError
from mlkit.serving.control.cluster import ReplicaCounts, missing
from mlkit.serving.control.room import NO_ROOM_S, Room
from mlkit.serving.port.details import counts_of

FULL = ReplicaCounts(3, 1, 1, {"CPU": 1.0, "GPU": 0.5}, {"CPU": 8.0})


class Stage:
    """A stage and a clock, both set by the test."""

    def __init__(self, patience_s: float = NO_ROOM_S) -> None:
        self.at = 0.0
        self.found = FULL
        self.room = Room(patience_s)

    def after(self, seconds: float) -> str:
        self.at += seconds
        return self.room.lacking({"models": self.found}, self.at)


def test_it_takes_a_moment_to_place_a_replica() -> None:
    stage = Stage()
    assert stage.after(0) == ""
    assert stage.after(1) == ""
    assert stage.after(2) == "waiting for resources: 1 GPU missing"
    stage.found = ReplicaCounts(3, 1, 3)
    assert stage.after(1) == ""


def test_after_its_patience_it_is_an_error_that_names_what_is_missing() -> None:
    stage = Stage()
    stage.after(0)
    with pytest.raises(DeployError, match="no resources for 2 of 3 replicas") as caught:
        stage.after(NO_ROOM_S)
    said = str(caught.value)
    assert "stage 'models'" in said
    assert "expected 1 CPU, 0.5 GPU for each, got 1 GPU missing after 10 s" in said


def test_a_replica_that_finds_its_place_begins_the_patience_anew() -> None:
    stage = Stage()
    stage.after(0)
    stage.after(NO_ROOM_S - 1)
    stage.found = ReplicaCounts(3, 1, 2, FULL.requested, FULL.free)
    stage.after(2)
    stage.after(NO_ROOM_S - 1)
    with pytest.raises(DeployError, match="no resources for 1 of 3"):
        stage.after(1)


def test_a_cluster_may_get_more_nodes() -> None:
    stage = Stage(math.inf)
    stage.after(0)
    assert stage.after(3600) == "waiting for resources: 1 GPU missing"


def test_a_process_that_is_only_slow_to_start_is_waited_for() -> None:
    stage = Stage()
    stage.found = ReplicaCounts(3, 0, 0, {"CPU": 0.5}, {"CPU": 1.5})
    stage.after(0)
    assert stage.after(600) == ""


# ---- what Serve and Ray say ------------------------------------------------------------------


def deployment(cpus: float, target: int, *states: str) -> dict[str, Any]:
    """As in Serve's details; a state with a + has a place."""
    return {
        "deployments": {
            "only": {
                "target_num_replicas": target,
                "deployment_config": {"ray_actor_options": {"num_cpus": cpus}},
                "replicas": [
                    {"state": state.rstrip("+"), "node_id": "n" if state.endswith("+") else None}
                    for state in states
                ],
            }
        }
    }


def seen(beside: bool = False, **applications: Any) -> dict[str, ReplicaCounts]:
    return counts_of(
        {"applications": applications},
        lambda: {"CPU": 2.0},
        {name: name for name in applications},
        beside=beside,
    )


def test_replicas_that_start_hold_what_they_were_promised() -> None:
    found = seen(front=deployment(0.5, 1, "RUNNING+"), models=deployment(0.5, 3, *3 * ["STARTING"]))
    assert found["front"] == ReplicaCounts(1, 1, 1, {"CPU": 0.5}, {})
    assert found["models"] == ReplicaCounts(3, 0, 0, {"CPU": 0.5}, {"CPU": 1.5})
    assert missing(found["models"]) == ""  # they have their room, and are slow


def test_what_is_promised_beyond_what_there_is_is_missing() -> None:
    found = seen(
        front=deployment(1.0, 1, "RUNNING+"), models=deployment(0.5, 4, "RUNNING+", "STARTING")
    )
    assert missing(found["models"]) == "1 CPU"  # two are still to be made


def test_what_stops_holds_nothing_for_long() -> None:
    found = seen(models=deployment(1.0, 2, "STOPPING+", "RUNNING+", "STARTING"))
    assert found["models"].wanted == 2
    assert missing(found["models"]) == ""


def test_the_old_one_counts_until_the_new_one_is_ready() -> None:
    states = "RUNNING+", "STARTING"
    assert seen(models=deployment(1.5, 1, *states))["models"].wanted == 1
    beside = seen(True, models=deployment(1.5, 1, *states))["models"]
    assert (beside.wanted, missing(beside)) == (2, "1 CPU")

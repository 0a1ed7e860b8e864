"""What a deployment says when there is no room for its replicas."""

from __future__ import annotations

import math

import pytest

from mlkit.errors import DeployError
from mlkit.serving.room import NO_ROOM_S, Room
from mlkit.serving.watch import Found

FULL = Found(3, 1, 1, {"CPU": 1.0, "GPU": 0.5}, {"CPU": 8.0})


class Stage:
    """A stage and a clock, both set by the test."""

    def __init__(self, patience_s: float = NO_ROOM_S) -> None:
        self.at = 0.0
        self.found = FULL
        self.room = Room(lambda: {"models": self.found}, patience_s, lambda: self.at)

    def after(self, seconds: float) -> str:
        self.at += seconds
        return self.room.lacking()


def test_it_takes_a_moment_to_place_a_replica() -> None:
    stage = Stage()
    assert stage.after(0) == ""
    assert stage.after(1) == ""
    assert stage.after(2) == "no room yet: 1 GPU missing"
    stage.found = Found(3, 1, 3)
    assert stage.after(1) == ""


def test_after_its_patience_it_is_an_error_that_names_what_is_missing() -> None:
    stage = Stage()
    stage.after(0)
    with pytest.raises(DeployError, match="no room for 2 of its 3 replicas") as caught:
        stage.after(NO_ROOM_S)
    said = str(caught.value)
    assert "stage 'models'" in said
    assert "expected 1 CPU, 0.5 GPU for each, got 1 GPU missing after 10 s" in said


def test_a_replica_that_finds_its_place_begins_the_patience_anew() -> None:
    stage = Stage()
    stage.after(0)
    stage.after(NO_ROOM_S - 1)
    stage.found = Found(3, 1, 2, FULL.asked, FULL.free)
    stage.after(2)
    stage.after(NO_ROOM_S - 1)
    with pytest.raises(DeployError, match="no room for 1 of its 3"):
        stage.after(1)


def test_a_cluster_may_get_more_nodes() -> None:
    stage = Stage(math.inf)
    stage.after(0)
    assert stage.after(3600) == "no room yet: 1 GPU missing"


def test_enough_in_all_and_on_no_node() -> None:
    stage = Stage()
    stage.found = Found(2, 1, 1, {"CPU": 2.0}, {"CPU": 3.0})
    stage.after(0)
    assert stage.after(3) == "no room yet: no node has enough of all"

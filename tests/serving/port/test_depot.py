"""Bundles that a cluster's depot holds, on the actor's class without Ray."""

import pytest

from mlkit.serving.port.depot import _Depot


def test_what_is_dropped_is_held_no_longer() -> None:
    depot = _Depot()
    for number in range(20):
        depot.put(f"bundle-{number}", [object()])
        depot.drop([f"bundle-{number - 1}"])
    assert list(depot.kept) == ["bundle-19"]
    assert depot.get("bundle-19") == [depot.kept["bundle-19"]]
    depot.drop(["bundle-19", "never put"])
    with pytest.raises(KeyError):
        depot.get("bundle-19")

"""The states of an app, and what its store keeps."""

import itertools

import pytest

from mlkit.errors import DeployError
from mlkit.serving.bundle import Origin
from mlkit.serving.control.records import AppRecord, AppSpec, AppState
from mlkit.serving.control.store import GRACE_S, Store
from mlkit.serving.limits import Limits

S = AppState
MOVES = {
    (S.STARTING, S.SERVING),
    (S.STARTING, S.STOPPED),
    (S.SERVING, S.UPDATING),
    (S.SERVING, S.STOPPED),
    (S.UPDATING, S.SERVING),
    (S.UPDATING, S.ROLLING_BACK),
    (S.UPDATING, S.STOPPED),
    (S.ROLLING_BACK, S.SERVING),
    (S.ROLLING_BACK, S.UPDATING),
    (S.ROLLING_BACK, S.STOPPED),
}


def record(state) -> AppRecord:
    spec = AppSpec(
        app="shop",
        stages=(),
        plan="p",
        origin=Origin("/", ()),
        limits=Limits(),
        token=None,
        exact_key="k",
    )
    return AppRecord(spec=spec, state=state, generation=1, root=True, url="", base="", since=0.0)


@pytest.mark.parametrize(("old", "new"), [*itertools.product(AppState, AppState)])
def test_a_state_follows_only_from_some(old, new) -> None:
    if (old, new) in MOVES:
        assert record(old).moved(new).state is new
    else:
        with pytest.raises(DeployError, match=f"{old} cannot become {new}"):
            record(old).moved(new)


def test_a_record_survives_the_wire() -> None:
    before = record(S.SERVING)
    assert AppRecord.model_validate_json(before.model_dump_json()) == before


def test_the_same_contents_are_kept_once(tmp_path) -> None:
    store = Store(tmp_path)
    assert store.put(b"model") == store.put(b"model") != store.put(b"other")
    assert len(list(tmp_path.iterdir())) == 2
    assert store.get(store.put(b"model")) == b"model"


def test_an_interrupted_write_leaves_nothing_that_is_reused(tmp_path, monkeypatch) -> None:
    store, write = Store(tmp_path), type(tmp_path).write_bytes

    def interrupted(path, data):
        write(path, data[:2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "write_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.put(b"whole")
    assert list(tmp_path.iterdir()) == []
    assert store.get(store.put(b"whole")) == b"whole"


def test_what_nothing_refers_to_goes_after_a_grace_period(tmp_path) -> None:
    at = [0.0]
    store = Store(tmp_path, now=lambda: at[0])
    wanted, unwanted = store.put(b"wanted"), store.put(b"unwanted")
    (tmp_path / "x.partial").write_bytes(b"")
    newest = max(path.stat().st_mtime for path in tmp_path.iterdir())
    at[0] = newest + GRACE_S - 1  # somebody may be about to refer to it
    assert store.collect({wanted}) == []
    at[0] = newest + GRACE_S + 1
    assert set(store.collect({wanted})) == {unwanted, "x.partial"}
    assert [path.name for path in tmp_path.iterdir()] == [wanted]

"""Trainings that are divided among processes end as they do in one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from mlkit import models
from mlkit.errors import DefinitionError
from mlkit.tagging import network
from tools import distributed, train

ON_RAY = """
import json, sys
import numpy as np
import torch
from tests.tools.test_distributed import made_up, weights
from tools import distributed, train

train.EPOCHS, train.BATCH = 4, 8
torch.set_num_threads(1)
examples, rows = made_up(), [np.arange(40), np.arange(60)]
here = train.fit_all(examples, rows, train.CHOSEN)
with distributed.ray_running(workers=2):
    there = distributed.fit_all(examples, rows, train.CHOSEN, workers=2)
print(json.dumps({
    "equal": [
        torch.equal(a, b)
        for one, other in zip(here, there, strict=True)
        for a, b in zip(weights(one), weights(other), strict=True)
    ],
    "accuracy": [
        [train.accuracy(head, examples, np.arange(60)) for head in heads] for heads in (here, there)
    ],
}))
"""


def made_up():
    """Features of two classes that differ in some of them."""
    rng = np.random.default_rng(0)
    classes = np.arange(60) % 2
    features = rng.normal(size=(2, 60, distributed.FEATURES))
    features[:, classes == 1, : distributed.FEATURES // 10] += 2
    pooled = np.zeros((2, 60, 4), np.float16)
    return train.Examples(features.astype(np.float16), pooled, np.ones(60), classes)


def weights(head):
    return head.state_dict().values()


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch):
    monkeypatch.setattr(train, "EPOCHS", 4)
    monkeypatch.setattr(train, "BATCH", 8)


@pytest.fixture
def few_features(monkeypatch):
    monkeypatch.setattr(distributed, "FEATURES", 50)


@pytest.mark.usefixtures("few_features")
def test_shares_of_the_trainings_add_up_to_the_heads_of_one_process(tmp_path):
    examples, rows = made_up(), [np.arange(60)]
    threads = torch.get_num_threads()
    fits = [(0, seed) for seed in train.seeds_of_members()]
    try:
        for share in (fits[1::2], fits[0::2]):
            distributed.fit_share(examples, rows, train.CHOSEN, share, tmp_path)
        (here,) = train.fit_all(examples, rows, train.CHOSEN)
    finally:
        torch.set_num_threads(threads)
    there = distributed.merged(tmp_path, 0)
    assert all(torch.equal(a, b) for a, b in zip(weights(here), weights(there), strict=True))


@pytest.mark.usefixtures("few_features")
def test_settings_change_what_is_trained():
    examples, rows = made_up(), np.arange(60)
    plain, slow = (
        train.fit(examples, rows, width=4, settings=settings)
        for settings in (train.CHOSEN, train.Settings(rate=1e-5))
    )
    assert not torch.equal(plain[0].weight, slow[0].weight)


@pytest.mark.usefixtures("few_features")
def test_a_trial_reports_the_accuracy_on_photos_that_were_held_out(monkeypatch):
    reported = []
    monkeypatch.setattr("ray.tune.report", reported.append)
    threads = torch.get_num_threads()
    examples = made_up()
    try:
        distributed._try(vars(train.CHOSEN), examples=vars(examples), epochs=4, batch=8)
    finally:
        torch.set_num_threads(threads)
    held, rest = train.split(60)
    expected = train.accuracy(train.fit_members(examples, rest), examples, held)
    assert reported == [{"held_out": expected}]


@pytest.mark.parametrize("words", [["--address", "auto"], []])
def test_what_a_cluster_or_a_threshold_needs_is_asked_for(monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["train", "photos", *(["others"] if words else []), *words])
    with pytest.raises(SystemExit):
        train.main()
    assert ("--storage" if words else "OTHERS") in capsys.readouterr().err


FACTS = {"cross_validated": 55, "photos": 60, "min_evidence": -0.4}


def test_a_saved_head_is_a_model_that_the_tagging_network_takes(tmp_path, monkeypatch):
    head = network.product_head()
    saved = train._save_model(head, FACTS, train.CHOSEN, tmp_path)
    assert saved.id == "product-head:v1"
    assert saved.labels == network.CLASSES
    assert saved.metrics["min_evidence"] == -0.4
    again = models.load("product-head", store=tmp_path)
    given = {}
    monkeypatch.setattr(
        models, "compile_model", lambda build, **rest: given.update(rest, net=build())
    )
    monkeypatch.setattr(network, "_build_network", lambda head: head)
    network.load_tagging_model(again)
    assert all(torch.equal(a, b) for a, b in zip(weights(head), weights(given["net"]), strict=True))
    shipped = given["cache_key"]
    network.load_tagging_model()
    assert given["cache_key"] != shipped


def test_another_model_is_no_product_head(tmp_path):
    other = models.save(
        torch.nn.Linear(3, 2),
        "other",
        example=np.zeros((1, 3), np.float32),
        kwargs={"in_features": 3, "out_features": 2},
        store=tmp_path,
    )
    with pytest.raises(DefinitionError, match="not a product head"):
        network._network_with(other)


@pytest.mark.serve
@pytest.mark.timeout(300)
def test_ray_trains_the_same_heads(repository):
    done = subprocess.run(
        [sys.executable, "-c", ON_RAY],
        capture_output=True,
        text=True,
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert all(report["equal"])
    here, there = report["accuracy"]
    assert here == there
    assert min(here) > 0.9

"""The trainings of `tools.train` on Ray: Ray Train divides them, Ray Tune searches for settings.

Both run on this machine, or on every node of a cluster, which then has mlkit, but not its tools:
these travel with the job.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mlkit.models import load_weights, save_weights
from mlkit.serving.control import folders
from mlkit.serving.port.cluster import start_local_ray
from mlkit.tagging.network import FEATURES, HIDDEN
from tools import train
from tools.train import Array, Examples, Settings

__all__ = ["fit_all", "fit_share", "merged", "ray_running", "tune"]

RETRIES = 2
"""Times that the trainings begin again when a node is lost."""

OBJECT_STORE_BYTES = 2**30
"""Of a local Ray; the features are there."""

Fit = tuple[int, int]
"""A training: which set of rows, and the seed of the narrow head."""


@contextmanager
def ray_running(address: str = "local", workers: int | None = None) -> Iterator[None]:
    """Start Ray here, or join a cluster, and leave it again.

    Args:
        address: of a cluster; "local" to start Ray.
        workers: CPUs that a local Ray has at least.
    """
    # Tune's logger for TensorBoard needs a further package.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    folder = folders.create() if address == "local" else None
    if folder is not None:
        # Before Ray is imported. Otherwise it writes a token of its own into the home directory.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        os.environ |= {"MLKIT_SESSION": folder.name, "SPT_NOENV": "1"}
        cpus = max(len(os.sched_getaffinity(0)), workers or 1)
        start_local_ray(OBJECT_STORE_BYTES, folder, cpus)
    import ray

    if folder is None:
        tools = {"py_modules": [str(Path(__file__).parent)]}
        ray.init(address=address, log_to_driver=False, runtime_env=tools)
    try:
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            folders.remove(folder)


def fit_all(
    examples: Examples,
    row_sets: Sequence[Array],
    settings: Settings,
    *,
    workers: int,
    storage: str | None = None,
) -> list[torch.nn.Sequential]:
    """Train a head on each set of rows, as `train.fit_all` does, in several processes.

    Each narrow head is trained whole in one process: it depends neither on their number nor on who
    gets it.

    Args:
        examples: features and classes; each node gets them once.
        row_sets: indices of the photos to train on.
        settings: of the optimiser and the mixing.
        workers: number of processes.
        storage: path or URI that all nodes can write to.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    fits = [(place, seed) for place in range(len(row_sets)) for seed in train.seeds_of_members()]
    with _place(storage) as path:
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "examples": ray.put(vars(examples)),
                "row_sets": list(row_sets),
                "settings": asdict(settings),
                "fits": fits,
                "epochs": train.EPOCHS,
                "batch": train.BATCH,
            },
            scaling_config=ScalingConfig(num_workers=workers),
            run_config=RunConfig(
                storage_path=path, failure_config=FailureConfig(max_failures=RETRIES)
            ),
        )
        checkpoint = trainer.fit().checkpoint
        assert checkpoint is not None  # or `fit` has raised
        with checkpoint.as_directory() as folder:
            return [merged(Path(folder), place) for place in range(len(row_sets))]


@contextmanager
def _place(storage: str | None) -> Iterator[str]:
    if storage is not None:
        yield storage
        return
    with tempfile.TemporaryDirectory(prefix="mlkit-train-") as folder:
        yield folder


def _work(config: dict[str, Any]) -> None:
    """A worker of Ray Train: its share of the trainings, and a checkpoint with what came of it."""
    import ray
    from ray.train import Checkpoint, get_context, report

    train.EPOCHS, train.BATCH = config["epochs"], config["batch"]
    context = get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    with tempfile.TemporaryDirectory() as folder:
        fit_share(
            Examples(**ray.get(config["examples"])),
            config["row_sets"],
            Settings(**config["settings"]),
            config["fits"][rank::workers],
            Path(folder),
        )
        # The files of all workers end up in one checkpoint.
        report({}, checkpoint=Checkpoint.from_directory(folder))


def fit_share(
    examples: Examples,
    row_sets: Sequence[Array],
    settings: Settings,
    fits: Sequence[Fit],
    folder: Path,
) -> None:
    """Train some of the narrow heads, and write their weights to a folder."""
    torch.set_num_threads(1)  # as in `train.main`: the same sums in the same order
    for place, seed in fits:
        head = train.fit_member(examples, row_sets[place], seed, settings)
        save_weights(head, _file(folder, (place, seed)))


def merged(folder: Path, place: int) -> torch.nn.Sequential:
    """Read the narrow heads of a set of rows from a folder, and merge them."""
    width = HIDDEN // train.MEMBERS
    return train.merge(
        load_weights(lambda: train.layers(FEATURES, width), _file(folder, (place, seed)))
        for seed in train.seeds_of_members()
    )


def _file(folder: Path, fit: Fit) -> Path:
    place, seed = fit
    return folder / f"{place}-{seed}.safetensors"


def tune(examples: Examples, trials: int, storage: str | None = None) -> Settings:
    """Search for the settings with which the most held-out photos are right.

    The first trial has the present settings, and is kept unless another one is better. The same
    photos judge all trials, so that the best accuracy of many is too high: `train.cross_validate`
    measures the one that was chosen.

    Args:
        examples: features and classes.
        trials: number of settings to try.
        storage: path or URI that all nodes can write to.
    """
    from ray import tune as ray_tune
    from ray.tune.search.basic_variant import BasicVariantGenerator

    trial = ray_tune.with_parameters(
        _try, examples=vars(examples), epochs=train.EPOCHS, batch=train.BATCH
    )
    with _place(storage) as path:
        results = ray_tune.Tuner(
            trial,
            param_space={
                "rate": ray_tune.loguniform(3e-4, 3e-3),
                "decay": ray_tune.loguniform(5e-3, 0.5),
                "mix": ray_tune.uniform(0.1, 1.0),
            },
            tune_config=ray_tune.TuneConfig(
                metric="held_out",
                mode="max",
                num_samples=trials,
                search_alg=BasicVariantGenerator(
                    points_to_evaluate=[asdict(train.CHOSEN)], random_state=train.SEED
                ),
            ),
            run_config=ray_tune.RunConfig(storage_path=path, verbose=0),
        ).fit()
    config = results.get_best_result().config
    assert config is not None
    return Settings(**config)


def _try(config: dict[str, float], *, examples: dict[str, Array], epochs: int, batch: int) -> None:
    """A trial of Ray Tune: the accuracy of a head on photos that were held out."""
    from ray import tune as ray_tune

    train.EPOCHS, train.BATCH = epochs, batch
    torch.set_num_threads(1)
    known = Examples(**examples)
    held, rest = train.split(len(known.classes))
    head = train.fit_members(known, rest, settings=Settings(**config))
    ray_tune.report({"held_out": train.accuracy(head, known, held)})

"""Linear heads, trained in seconds on features that were computed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlkit.errors import DefinitionError, entry_point
from mlkit.models.agreement import Estimate, estimate
from mlkit.models.model import Array, check_rows

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike

__all__ = ["TrainedHead", "train_head"]

HELD_OUT = 5
"""One in so many items of each class is held out to measure the accuracy."""

L2 = 1e-2
"""Weight of half the squared norm of the weights of standardised features, beside the mean loss."""

ITERATIONS = 100


@dataclass(frozen=True, repr=False)
class TrainedHead:
    """A linear head, and how good it is.

    Attributes:
        head: from features to logits of the classes.
        labels: names of the classes, in the order of the logits.
        accuracy: on the items held out, with its 95% interval.
        held_out: number of these items.
    """

    head: torch.nn.Linear
    labels: tuple[str, ...]
    accuracy: Estimate
    held_out: int

    def __repr__(self) -> str:
        share = self.accuracy
        return (
            f"<head of {len(self.labels)} classes on {self.head.in_features} features: "
            f"{share.value:.1%} of {self.held_out} held-out items right "
            f"(95% interval {share.low:.1%} to {share.high:.1%})>"
        )


@entry_point
def train_head(features: ArrayLike, labels: ArrayLike, *, seed: int = 0) -> TrainedHead:
    """Train a linear classifier on features, and measure it on a fifth of each class held out.

    The features come from one pass of a backbone over the training data::

        trained = train_head(features, labels)
        bank = HeadBank({"shop-1": trained.head})
        app.swap("classify.heads", resource(value=bank))

    It is a logistic regression (LBFGS with an L2 penalty on standardised features; the head itself
    takes features as they are). The head that is returned is trained on all items; the accuracy is
    that of one which has not seen the items held out.

    Args:
        features: [N, features].
        labels: name of each item's class [N].
        seed: chooses the items held out.

    Raises:
        DefinitionError: shapes do not fit, a feature is NaN or infinite, there is one class only,
            or no class has five items.
    """
    import numpy as np

    inputs = np.asarray(features, np.float32)
    names, targets = np.unique(np.asarray(labels, str), return_inverse=True)
    _check(inputs, np.asarray(labels), len(names))
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(targets == index)) for index in range(len(names))]
    held = np.concatenate([part[: len(part) // HELD_OUT] for part in rows])
    rest = np.concatenate([part[len(part) // HELD_OUT :] for part in rows])
    if not len(held):
        raise DefinitionError(
            "there are too few items to hold some out",
            where="train_head",
            expected=f"a class of {HELD_OUT} or more",
            got=f"at most {max(map(len, rows))} of a class",
        )
    trial = _fit(inputs[rest], targets[rest], len(names))
    right = _logits(trial, inputs[held]).argmax(1) == targets[held]
    head = _fit(inputs, targets, len(names))
    return TrainedHead(head, tuple(names.tolist()), estimate(right), len(held))


def _check(inputs: Array, labels: Array, classes: int) -> None:
    import numpy as np

    check_rows(
        inputs,
        labels,
        "features and labels do not fit",
        where="train_head",
        expected="features [N, F] and labels [N]",
    )
    if classes < 2:
        raise DefinitionError(
            "there is nothing to tell apart",
            where="train_head",
            expected="two or more classes",
            got=str(classes),
        )
    finite = np.isfinite(inputs).all(axis=1)
    if not finite.all():
        raise DefinitionError(
            f"{np.count_nonzero(~finite):,} items have NaN or infinite features",
            where="train_head",
            got=f"the first is item {int(finite.argmin())}",
            fix="leave them out, or check how they were computed",
        )


def _fit(inputs: Array, targets: Array, classes: int) -> torch.nn.Linear:
    import torch

    x, y = torch.from_numpy(inputs), torch.from_numpy(targets)
    mean, scale = x.mean(0), x.std(0) + 1e-6
    x = (x - mean) / scale
    head = torch.nn.Linear(x.shape[1], classes)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimiser = torch.optim.LBFGS(
        head.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe"
    )

    def loss() -> Any:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(head(x), y) + L2 / 2 * head.weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        head.weight.div_(scale)
        head.bias.sub_(head.weight @ mean)
    return head.requires_grad_(False)


def _logits(head: torch.nn.Linear, inputs: Array) -> Array:
    import torch

    logits: Array = head(torch.from_numpy(inputs)).numpy()
    return logits

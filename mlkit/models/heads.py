"""Many small heads on one backbone, as one array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlkit.errors import DefinitionError, InputError, did_you_mean
from mlkit.models.model import Array, check_rows

if TYPE_CHECKING:
    import torch

__all__ = ["HeadBank"]


class HeadBank:
    """Linear heads that share their features: each item of a batch is given to its own head.

    The weights of all heads are stacked. A batch takes the rows of its heads and is multiplied with
    them at once, so that it does not matter how many heads it names::

        bank = HeadBank({"shop-1": nn.Linear(1280, 10), "shop-2": (weight, bias)})
        scores = bank(features, ["shop-2", "shop-1", "shop-2"])  # [3, 10]

    It can be sent to another process, as in ``resource(value=bank)``. Heads of different sizes are
    padded with weights of zero and a bias of -inf, which are classes of no probability.

    Args:
        heads: by id, a `torch.nn.Linear`, or its weight [classes, features] and bias [classes].

    Attributes:
        weight: [heads, classes, features], float32.
        bias: [heads, classes], float32.

    Raises:
        DefinitionError: there are none, or their numbers of features differ.
    """

    def __init__(
        self, heads: Mapping[str, torch.nn.Linear | tuple[Array | Sequence[Any], Any]]
    ) -> None:
        import numpy as np

        arrays = {id: _arrays(head) for id, head in heads.items()}
        features = {weight.shape[1] for weight, _ in arrays.values()}
        if len(features) != 1:
            raise DefinitionError(
                "the heads of a bank take the same features",
                where="HeadBank",
                expected="one or more heads, of one size of features",
                got=f"heads of {sorted(features)} features" if features else "no heads",
            )
        classes = max(len(bias) for _, bias in arrays.values())
        self.weight = np.zeros((len(arrays), classes, *features), np.float32)
        self.bias = np.full((len(arrays), classes), -np.inf, np.float32)
        for row, (weight, bias) in enumerate(arrays.values()):
            self.weight[row, : len(bias)] = weight
            self.bias[row, : len(bias)] = bias
        self._rows = {id: row for row, id in enumerate(arrays)}

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the heads."""
        return tuple(self._rows)

    @property
    def nbytes(self) -> int:
        """Size of weights and biases in bytes."""
        return self.weight.nbytes + self.bias.nbytes

    def __call__(self, features: Array, ids: Sequence[str]) -> Array:
        """Return the scores of each item by its head.

        Args:
            features: [N, features].
            ids: the head of each item.

        Returns:
            scores [N, classes], float32.

        Raises:
            InputError: there is no such head.
            DefinitionError: the shape of the features is another one.
        """
        if features.shape != (len(ids), self.weight.shape[2]):
            raise DefinitionError(
                "the features do not fit the heads",
                where="HeadBank",
                expected=f"[{len(ids)}, {self.weight.shape[2]}]",
                got=str(list(features.shape)),
            )
        rows = [self._row(id) for id in ids]
        products = self.weight[rows] @ features[:, :, None].astype("float32", copy=False)
        scores: Array = products[:, :, 0] + self.bias[rows]
        return scores

    def _row(self, id: str) -> int:
        row = self._rows.get(id)
        if row is None:
            raise InputError(
                f"there is no head {id[:80]!r}",
                where="HeadBank",
                fix=did_you_mean(id, self._rows),
            )
        return row

    def __repr__(self) -> str:
        heads, classes, features = self.weight.shape
        return f"<{heads} heads of up to {classes} classes on {features} features>"


def _arrays(head: Any) -> tuple[Array, Array]:
    import numpy as np

    if not isinstance(head, tuple):
        weight = head.weight.detach().cpu().numpy()
        bias = np.zeros(len(weight)) if head.bias is None else head.bias.detach().cpu().numpy()
        return weight, bias
    weight, bias = (np.asarray(part) for part in head)
    check_rows(
        weight,
        bias,
        "not a head",
        where="HeadBank",
        expected="weight [classes, features] and bias [classes]",
    )
    return weight, bias

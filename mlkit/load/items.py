"""Times of the items of responses that stream."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["gaps_ms", "item_ends_s"]


def item_ends_s(
    counts: NDArray[np.int64], times_s: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return when the first and the last item of each request arrived; NaN without items.

    Args:
        counts: number of items by request.
        times_s: when each item arrived, request by request.
    """
    import numpy as np

    ends = np.cumsum(counts)
    first, last = np.full(len(counts), math.nan), np.full(len(counts), math.nan)
    first[counts > 0] = times_s[(ends - counts)[counts > 0]]
    last[counts > 0] = times_s[ends[counts > 0] - 1]
    return first, last


def gaps_ms(
    counts: NDArray[np.int64], times_s: NDArray[np.float64], ok: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the times from one item of a request to the next, of all requests.

    Args:
        counts: number of items by request.
        times_s: when each item arrived, request by request.
        ok: which requests succeeded; for the others the next item never arrived: its gap is
            infinite.
    """
    import numpy as np

    request = np.repeat(np.arange(len(counts)), counts)
    gaps = np.diff(times_s)[request[1:] == request[:-1]] * 1e3
    return np.concatenate([gaps, np.full(int((~ok & (counts > 0)).sum()), math.inf)])

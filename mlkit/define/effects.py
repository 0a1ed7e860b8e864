"""What functions of libraries do with their arguments: which change them, and which return them."""

from __future__ import annotations

__all__ = [
    "CHANGING_FIRST",
    "CHANGING_PICTURES",
    "COLLECTING",
    "COPYING",
    "DRAWING",
    "GETTING",
    "NESTING",
    "ONE_OF",
    "SAME",
    "VIEWS",
]

CHANGING_FIRST = {
    *("Draw", "at"),  # of PIL.ImageDraw, and of numpy's functions: np.add.at
    *("heapify", "heappop", "heappush", "heappushpop", "heapreplace"),
    *("insort", "insort_left", "insort_right", "shuffle", "setattr", "delattr"),
    *("copyto", "fill_diagonal", "place", "put_along_axis", "putmask"),
}
"""Functions that change their first argument."""

DRAWING = {
    *("cv2.arrowedLine", "cv2.circle", "cv2.drawContours", "cv2.drawMarker", "cv2.ellipse"),
    *("cv2.fillConvexPoly", "cv2.fillPoly", "cv2.floodFill", "cv2.line", "cv2.polylines"),
    *("cv2.putText", "cv2.rectangle"),
}
"""Functions that draw on their first argument."""

CHANGING_PICTURES = {
    *("alpha_composite", "paste", "putalpha", "putdata", "putpalette", "putpixel", "thumbnail"),
}
"""Methods of PIL's images that change them."""

COPYING = {"copy", "model_copy", "replace"}
"""Copies in which the parts are the same, except of arrays."""

COLLECTING = {
    *("OrderedDict", "defaultdict", "deque", "dict", "frozenset", "list", "set", "tuple"),
    *("chain", "enumerate", "filter", "islice", "iter", "map", "reversed", "sorted", "zip"),
}
"""Functions whose result holds the items of their arguments."""

NESTING = {"enumerate", "items", "zip"}
"""Functions whose result holds them in tuples."""

ONE_OF = {"getattr", "max", "min", "next", "vars"}
"""Functions that return one of the items of their argument, or of their arguments."""

GETTING = {"__getitem__", "get", "pop", "popitem", "popleft", "setdefault"}
"""Methods that return an item."""

VIEWS = {
    *("contiguous", "cpu", "detach", "diagonal", "expand", "numpy", "permute", "ravel", "reshape"),
    *("squeeze", "swapaxes", "to_numpy", "transpose", "unsqueeze", "view"),
}
"""Methods of arrays whose result may be a view."""

SAME = VIEWS | {
    *("as_tensor", "asanyarray", "asarray", "ascontiguousarray", "atleast_1d", "atleast_2d"),
    *("expand_dims", "from_numpy"),
}
"""Functions whose result may be their argument, or a view of it."""

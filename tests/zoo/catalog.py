"""Types of all kinds, sent through a pipeline in every way there is.

A type is refused when the pipeline is defined, or every way keeps type and value: there is no third
outcome. `ways.py` has the ways; the other modules have the types.
"""

from tests.zoo import classes, containers, data, foreign, models, recordings, refused, scalars

ENTRIES = [
    *scalars.ENTRIES,
    *containers.ENTRIES,
    *classes.ENTRIES,
    *models.ENTRIES,
    *data.ENTRIES,
    *recordings.ENTRIES,
    *foreign.ENTRIES,
    *refused.ENTRIES,
]

"""Levels of loggers: as the notebook has them when it deploys, so they are in replicas."""

from __future__ import annotations

import logging
from collections.abc import Mapping

__all__ = ["SERVERS", "levels_here", "set_levels"]

SERVERS = ("ray", "uvicorn")
"""Loggers of the servers around a replica, which are not the notebook's to configure."""


def levels_here() -> dict[str, int]:
    """Return the levels set in this process, by logger; "" is the root logger.

    A disabled logger has a level above all others.
    """
    levels = {"": logging.root.level}
    for name, logger in sorted(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and not name.startswith(SERVERS):
            level = logging.CRITICAL + 1 if logger.disabled else logger.level
            if level != logging.NOTSET:
                levels[name] = level
    return levels


def set_levels(levels: Mapping[str, int], before: Mapping[str, int]) -> None:
    """Set the levels of loggers in this process.

    Args:
        levels: levels by logger.
        before: the levels that were set previously; those of other loggers are reset.
    """
    for name in SERVERS:
        server = logging.getLogger(name)
        if server.level == logging.NOTSET:  # it would follow the root logger
            server.setLevel(logging.WARNING)
    for name in before.keys() - levels.keys():
        logging.getLogger(name).setLevel(logging.WARNING if name == "" else logging.NOTSET)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)

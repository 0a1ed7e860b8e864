"""Handles of Serve's deployments, in a session or in a replica."""

from __future__ import annotations

from typing import Any

__all__ = ["handle_of"]


def handle_of(application: str, deployment: str) -> Any:
    """A handle that calls a deployment, in this process or in a replica."""
    from ray import serve

    try:
        # It was there a moment ago; asking the controller again would block a replica's loop.
        return serve.get_deployment_handle(deployment, application, _check_exists=False)
    except TypeError:
        return serve.get_deployment_handle(deployment, application)

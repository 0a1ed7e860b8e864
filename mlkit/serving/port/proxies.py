"""What Serve's manager of HAProxy does differently in a session of mlkit."""

from __future__ import annotations

from typing import Any

from ray.serve._private import haproxy

__all__ = ["HAProxyManager"]


class HAProxyManager(haproxy.HAProxyManager):
    """Starts HAProxy again if it has died.

    Serve would replace the manager after three failed checks, and the new one, a process that has
    to import Ray, starts HAProxy.
    """

    async def check_health(self) -> bool:
        """Return whether HAProxy runs, after a new start if it had ended."""
        if self._has_died():
            async with self._reload_lock:
                if self._has_died():  # a reload may have exchanged the process
                    await self._haproxy.start()
        return bool(await super().check_health())

    def _has_died(self) -> bool:
        api: Any = self._haproxy
        return api._proc is not None and not api._is_running()

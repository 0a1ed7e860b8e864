"""The versions of an app as a table."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from mlkit.serving.control.records import AppRecord, AppVersion

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Versions"]


class Versions(tuple[AppVersion, ...]):
    """Versions of an app, oldest first; displayed as a table.

    Attributes:
        states: of each: "serving", "before", "rolled back", "failed: ..." or, of the one that
            serves, its version on trial.
    """

    states: tuple[str, ...]

    @classmethod
    def of(cls, record: AppRecord) -> Versions:
        """Return the versions of a record."""
        versions = cls(record.versions)
        versions.states = tuple(_state(version, record) for version in record.versions)
        return versions

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each: when it began to answer, how, what changed, and its state."""
        import pandas as pd

        rows = [
            {
                "version": version.version,
                "when": datetime.fromtimestamp(version.since).astimezone(),
                "how": version.how,
                "changed": version.changed,
                "state": state,
            }
            for version, state in zip(self, self.states, strict=True)
        ]
        columns = ["version", "when", "how", "changed", "state"]
        return pd.DataFrame(rows, columns=columns).set_index("version")

    def __repr__(self) -> str:
        return self._shown().to_string()

    def _repr_html_(self) -> str:
        html: str = self._shown().to_html()
        return html

    def _shown(self) -> pd.DataFrame:
        frame = self.to_frame()
        frame["when"] = [f"{when:%d %b %H:%M:%S}" for when in frame["when"]]
        return frame


def _state(version: AppVersion, record: AppRecord) -> str:
    if version.error:
        return f"failed: {version.error}"
    if version.version == record.version:
        on_trial = f"; on trial: {record.trial.version}" if record.trial else ""
        return f"serving{on_trial}"
    return "rolled back" if version.left else "before"

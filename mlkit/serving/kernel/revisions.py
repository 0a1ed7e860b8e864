"""Changes of a deployed app: each is compared with, and then made to, its current state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlkit.define.graph import Graph
from mlkit.define.resource import Resource
from mlkit.define.shipping import loads
from mlkit.errors import DeployConflict, DeployError, SessionError
from mlkit.plan import Plan
from mlkit.serving.bundle import unpack_resource
from mlkit.serving.control.protocol import (
    Call,
    CreateToken,
    PromoteTrial,
    RevokeToken,
    RollBack,
    ScaleApp,
    SwapResources,
)
from mlkit.serving.control.records import AppRecord
from mlkit.serving.grants import Grant
from mlkit.serving.kernel.configuration import configuration, updates
from mlkit.serving.kernel.session import Session
from mlkit.serving.kernel.settings import Scaled, scaled, settings_of, with_settings
from mlkit.serving.kernel.swap import check_shares, replacements

__all__ = ["Revisions"]

CHANGE_ATTEMPTS = 3
"""Attempts of a change when others change the app at the same time."""


class Revisions:
    """The record of an app as the kernel last saw it, and changes of the app.

    Args:
        session: the session that owns the app.
        planned: the plan that was deployed.
        record: the app's record.

    Attributes:
        plan: the plan with the present settings.
    """

    def __init__(self, session: Session, planned: Plan, record: AppRecord) -> None:
        self._session, self._planned = session, planned
        self._adopt(record)

    def _adopt(self, record: AppRecord) -> None:
        self.record = record
        self.plan = with_settings(self._planned, record.spec, self._session.store.get)

    @property
    def _app(self) -> str:
        return self.record.app

    @property
    def _graph(self) -> Graph:
        return self._planned.graph

    def scale(self, name: str, options: Mapping[str, Any]) -> None:
        """Change settings of a stage, or a batch size; see `App.scale`."""
        self._change(lambda: self._scale_call(name, options))

    def _scale_call(self, name: str, options: Mapping[str, Any]) -> ScaleApp:
        spec = self.record.spec
        new = scaled(Scaled(self.plan, spec.limits, spec.batch_sizes), name, options)
        before = {stage.name: stage for stage in self.plan.stages}
        return ScaleApp(
            app=self._app,
            generation=self.record.generation,
            settings={
                stage.name: settings_of(stage, self._session.store.put)
                for stage in new.plan.stages
                if stage is not before[stage.name]
            },
            limits=new.limits,
            batch_sizes=dict(new.sizes),
        )

    def swap(self, name: str, new: Any, *, canary: float, shadow: float) -> None:
        """Replace a resource of a step; see `App.swap`."""
        check_shares(canary=canary, shadow=shadow)
        if shadow:
            self._check_comparable()
        new_resources = replacements(
            self._graph, self.record.spec, name, new, self._session.store.put
        )
        self._change(
            lambda: SwapResources(
                app=self._app,
                generation=self.record.generation,
                replacements=new_resources,
                canary=canary,
                shadow=shadow,
            )
        )

    def update(self, values: Mapping[str, Any]) -> None:
        """Change configuration of steps; see `App.update`."""
        new_values = updates(self._graph, self.record.spec, values, self._session.store.put)
        self._change(
            lambda: SwapResources(
                app=self._app,
                generation=self.record.generation,
                replacements=new_values,
                canary=0.0,
                shadow=0.0,
                how="updated",
            )
        )

    @property
    def configuration(self) -> dict[str, Any]:
        """See `App.configuration`."""
        return configuration(self._graph, self.record.spec, self._session.store.get)

    def replaced(self, node: str) -> dict[str, Resource[Any]]:
        """Return the resources of a node that were swapped or updated, by keyword."""
        return {
            key.rpartition(".")[2]: unpack_resource(self._session.store.get(new.object))
            for key, new in self.record.spec.replacements.items()
            if key.split(".", 2)[1] == node
        }

    def _check_comparable(self) -> None:
        if not self.record.spec.observe:
            raise DeployError(
                "a shadow needs metrics, for the disagreements",
                where=f"app {self._app!r}",
                fix="deploy it without observe=False, or use canary=",
            )
        if self._graph.streams:
            raise DeployError(
                "a pipeline that streams cannot have a shadow",
                where=f"app {self._app!r}",
                fix="use canary=",
            )

    def promote(self) -> None:
        """Have the version on trial take over; see `App.promote`."""
        self._refresh()
        trial = self.record.trial
        call = PromoteTrial(app=self._app, version=trial.version if trial else "")
        self._adopt(self._session.call(call))

    def roll_back(self, to: str) -> None:
        """End the trial, or go back to a version; see `App.rollback`."""
        self._refresh()
        version = (self.record.trial or self.record).version
        record = self._session.call(RollBack(app=self._app, version=version, to=to))
        if record.spec.plan != self.record.spec.plan:
            self._planned = loads(self._session.store.get(record.spec.plan))
        self._adopt(record)

    def create_token(self, grant: Grant) -> None:
        """Have a named token be accepted; see `mlkit.serving.kernel.tokens.Tokens.create`."""
        self._adopt(self._session.call(CreateToken(app=self._app, grant=grant)))

    def revoke_token(self, name: str) -> None:
        """Have a named token be refused; see `mlkit.serving.kernel.tokens.Tokens.revoke`."""
        self._adopt(self._session.call(RevokeToken(app=self._app, name=name)))

    def look(self) -> AppRecord:
        """Return the current record; the last one that was seen if the session has ended."""
        try:
            return self._session.about().apps.get(self._app, self.record)
        except SessionError:
            return self.record

    def _change(self, make_call: Callable[[], Call[AppRecord]]) -> None:
        """Change the app, on its current state if others have changed it meanwhile."""
        for attempt in range(CHANGE_ATTEMPTS):
            try:
                self._adopt(self._session.call(make_call()))
                return
            except DeployConflict:
                if attempt + 1 == CHANGE_ATTEMPTS:
                    raise
                self._refresh()

    def _refresh(self) -> None:
        record = self._session.about().apps.get(self._app)
        if record is None:
            raise DeployError("the app no longer exists", where=f"app {self._app!r}")
        if record.spec.plan != self.record.spec.plan:
            raise DeployConflict(
                "the app was deployed again in the meantime",
                where=f"app {self._app!r}",
                fix=f"use the new one: app = attach({self._app!r})",
            )
        self._adopt(record)

"""Changes of a deployed app, and its versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlkit.errors import entry_point
from mlkit.metrics.compare import Comparisons, Disagreements
from mlkit.serving.control.protocol import GetComparisons
from mlkit.serving.control.records import Change, Trial
from mlkit.serving.kernel.attached import Attached
from mlkit.serving.kernel.cells import outdated
from mlkit.serving.kernel.versions import Versions

__all__ = ["Changing"]


class Changing(Attached):
    """Scales, swaps, updates and rolls back."""

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes by stage of the last deployment or change, with reasons."""
        return self._record.changes

    @entry_point
    def scale(
        self, name: str, num_replicas: int | None = None, **options: Any
    ) -> tuple[Change, ...]:
        """Change how it runs without reloading anything or failing a request.

        ::

            app.scale("download", 3)
            app.scale("download", min_replicas=1, max_replicas=4, target_ongoing_requests=2)
            app.scale("classify", max_batch_size=16)
            app.scale("tag", max_ongoing_requests=64)   # of the front: 503 beyond

        Deploying again restores the options of the deploy cell.

        Args:
            name: name of a stage, of a step with a stage of its own, or, for ``max_batch_size``,
                of any batched step.
            num_replicas: fixed number of replicas, instead of autoscaling.
            options: ``min_replicas``, ``max_replicas``, ``target_ongoing_requests``, delays,
                factors and ``policy`` of autoscaling; ``max_ongoing_requests``,
                ``max_queued_requests``; ``max_batch_size``.

        Returns:
            the changes by stage, as in `changes`.

        Raises:
            DeployError: there is no such stage or option, the step shares its stage with others,
                or the new replicas fail to start, and the change was rolled back.
            DefinitionError: a value is invalid.
        """
        self._check_open()
        if num_replicas is not None:
            options["num_replicas"] = num_replicas
        self._revisions.scale(name, options)
        return self.changes

    @entry_point
    def swap(
        self, name: str, new: Any, *, canary: float = 0.0, shadow: float = 0.0
    ) -> tuple[Change, ...]:
        """Replace a resource of a step, such as its model, without failing a request.

        ::

            app.swap("classify", resource(load_v2))              # takes over at once
            app.swap("classify", clf, canary=0.1)                # answers a tenth of the requests
            app.swap("classify", clf, shadow=0.2)                # sees copies of a fifth of them
            app.promote()                                        # or app.rollback()

        The new one is loaded beside the old one, and tried on the last request that each replica
        has answered: the swapped step and those that depend on it run once more. If that fails or
        returns NaN, the old one goes on serving. Each response names the version that made it in
        the header ``X-Mlkit-Version``; see `version` and `trial`.

        Deploying again restores what is in the deploy cell.

        Args:
            name: name of the step, or ``step.keyword`` if it has several resources.
            new: a resource, a loader (a function, a class or a `functools.partial`), or the value
                itself.
            canary: share of the requests that the new version answers, by the hash of
                ``X-Request-Id``. Call it again with another share to change that.
            shadow: share of the other requests that the new version sees a copy of, after the
                response. It is dropped where there is no time for it. See `disagreements`.

        Returns:
            the changes by stage, as in `changes`.

        Raises:
            DeployError: there is no such step, another version is on trial, or the new one cannot
                be loaded or fails on a recent request.
            DefinitionError: a share is invalid, or the value is not of the type that the step
                declares.
        """
        self._check_open()
        self._revisions.swap(name, new, canary=canary, shadow=shadow)
        return self.changes

    @entry_point
    def update(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> tuple[Change, ...]:
        """Change configuration of steps without a restart and without failing a request.

        ::

            @step
            def decide(score: float, threshold: float = 0.5) -> bool: ...

            app.update(threshold=0.7)               # decide(score(x)) does not pass it
            app.update({"decide.threshold": 0.7})   # where several steps have a threshold

        As with `swap`, the new value is tried on the last request that each replica has answered,
        `versions` lists the change, and `rollback` undoes it. Deploying again restores what is in
        the deploy cell; the notebook's own steps keep their defaults.

        Args:
            values: new values by ``step.keyword``, as in `configuration`, or by keyword.
            more: new values by keyword.

        Returns:
            the changes by stage, as in `changes`.

        Raises:
            DeployError: no step has such a parameter, several have it, another version is on
                trial, or the value fails on a recent request.
            DefinitionError: a value does not match the annotation of its parameter.
        """
        self._check_open()
        self._revisions.update({**(values or {}), **more})
        return self.changes

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What `update` can change, by ``step.keyword``: values that answer now.

        These are the defaults of parameters that the pipeline does not pass, and resources that
        are plain values.
        """
        return self._revisions.configuration

    @entry_point
    def promote(self) -> tuple[Change, ...]:
        """Have the version on trial take over; nothing is loaded again.

        Raises:
            DeployError: no version is on trial.
            DeployConflict: another version has been put on trial meanwhile.
        """
        self._check_open()
        self._revisions.promote()
        return self.changes

    @entry_point
    def rollback(self, version: str = "") -> tuple[Change, ...]:
        """Go back to the version that answered before; while one is on trial, end the trial.

        ::

            app.versions                        # what answered when
            app.rollback()                      # the one before: a deployment, swap or update
            app.rollback("3fa2")                # the one that begins with these digits

        A version that was rolled back from is skipped by the next call, which goes further back,
        but can be named. Code, models, configuration, limits and environment are those of the
        version. What `scale` sets stays: replicas and autoscaling always, limits and batch sizes
        where only a swap or an update is undone. The notebook's cells stay as they are: running the
        deploy cell deploys them again.

        Args:
            version: a version of `versions`, or its first digits, at least four.

        Returns:
            the changes by stage, as in `changes`.

        Raises:
            DeployError: there is no such version, or it does not start any more.
            DeployConflict: the app was changed at the same time.
        """
        self._check_open()
        plan = self._record.spec.plan
        self._revisions.roll_back(version)
        if self._record.spec.plan != plan:
            self._sender.close()
            self._connect()
        return self.changes

    @property
    def versions(self) -> Versions:
        """The last ten versions, oldest first: when each began to answer, and what changed.

        It displays itself as a table; ``.to_frame()`` returns a DataFrame. The session keeps it,
        so that `attach` finds it after a restart of the kernel.
        """
        return Versions.of(self._record if self.closed else self._revisions.look())

    @property
    def version(self) -> str:
        """The version that answers, as in the header ``X-Mlkit-Version``."""
        return self._record.version

    @property
    def trial(self) -> Trial | None:
        """The version on trial with its shares, or None."""
        return self._record.trial

    @entry_point
    def disagreements(self) -> Disagreements:
        """Return the requests for which the last shadow returned something else.

        It displays itself as a table with thumbnails; ``.to_frame()`` returns a DataFrame.
        """
        compared = self.session.call(GetComparisons(app=self.name), timeout_s=10)
        trial = self.trial
        if trial is not None and trial.shadow and trial.version != compared["version"]:
            compared = Comparisons().pack(0.0) | {"version": trial.version}  # it has seen nothing
        return Disagreements(**{**compared, "samples": tuple(compared["samples"][::-1])})

    @property
    def outdated(self) -> tuple[str, ...]:
        """Names of steps, and of the pipeline, whose cells have changed since they were deployed.

        Empty if that is unknown, as for an app whose cells this kernel has not run.
        """
        return outdated(self._record.spec.code, self._definition.pipeline)

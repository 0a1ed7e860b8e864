"""The result of a load test: raw records, and figures computed from them on demand."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.errors import LoadError, entry_point
from mlkit.load import analysis, hdr, resultfile
from mlkit.load.arrivals import Arrivals
from mlkit.load.items import gaps_ms, item_ends_s
from mlkit.load.records import ClientCost, FailureSample, RequestRecord, parse_server_timing
from mlkit.load.replay import RecordedTimes
from mlkit.load.slo import SHARES, SLO, Outcome, Percentile, Verdict, percentile_of
from mlkit.load.validity import lateness_limit_ms, void_reasons

if TYPE_CHECKING:
    from collections.abc import Mapping

    import matplotlib.figure
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["LoadResult", "Percentile"]

PARTS = 20
"""Number of batches of a run, for the interval of its throughput."""


def _no_times() -> NDArray[np.float64]:
    import numpy as np

    return np.empty(0)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class LoadResult:
    """The records of one load test.

    Attributes:
        arrivals: the arrival process.
        target: the server, as text.
        duration_s: length of the measured part; shorter than requested if interrupted.
        warmup_s: length of the warm-up, whose requests are not among the records.
        timeout_s: seconds after which a request counted as failed.
        slo_ms: latency objective for p99 in ms, or None.
        seed: of the order of the payloads.
        payloads: number of different payloads.
        started: start of the measured part, as Unix time in seconds.
        interrupted: whether it was stopped early.
        carried: responses to warm-up requests that arrived after the start.
        client: resource use of the generator.
        failures: the first failures of each kind.
        columns: the raw records, an array per field of `RequestRecord`; ``items`` only of an app
            that streams.
        item_times: when each item arrived, in seconds from the start, request by request.
        planned_s: length of the schedule in seconds, of which an interrupted run has sent a part;
            None if that is ``duration_s``.
        parts: number of payloads by part of a `mix`; empty without one.
        sampled: whether the records are a sample, with no schedule to compare with.
    """

    arrivals: Arrivals
    target: str
    duration_s: float
    warmup_s: float
    timeout_s: float
    slo_ms: float | None
    seed: int
    payloads: int
    started: float
    interrupted: bool
    carried: int
    client: ClientCost
    failures: tuple[FailureSample, ...]
    columns: Mapping[str, NDArray[Any]]
    item_times: NDArray[np.float64] = field(default_factory=_no_times)
    planned_s: float | None = None
    parts: Mapping[str, int] = field(default_factory=dict)
    sampled: bool = False

    # Records

    def __len__(self) -> int:
        return len(self.columns["intended"])

    @property
    def nbytes(self) -> int:
        """Size of the raw records in memory, in bytes."""
        return sum(column.nbytes for column in self.columns.values()) + self.item_times.nbytes

    @cached_property
    def records(self) -> list[RequestRecord]:
        """The raw records, in the order of sending."""
        data = {name: column.tolist() for name, column in self.columns.items()}
        data["error"] = [error or None for error in data["error"]]
        return [
            RequestRecord(**dict(zip(data, row, strict=True)))
            for row in zip(*data.values(), strict=True)
        ]

    def to_frame(self) -> pd.DataFrame:
        """A row per request: times in s, latency, lateness and phases in ms.

        Of an app that streams also the number of ``items``, ``first_item_ms`` from the scheduled
        time, and the mean of ``between_items_ms``; of a mix also the ``part``.
        """
        import pandas as pd

        columns = self.columns
        frame = pd.DataFrame(
            {
                "intended_s": columns["intended"],
                "sent_s": columns["sent"],
                "first_byte_s": columns["first_byte"],
                "finished_s": columns["finished"],
                "latency_ms": self.latency_ms,
                "lateness_ms": self.lateness_ms,
                "status": columns["status"],
                "bytes": columns["bytes"],
                "payload": columns["payload"],
                "error": [error or None for error in columns["error"].tolist()],
            }
        )
        if self.parts:
            frame["part"] = self._part_of(columns["payload"])
        if self.streams:
            first_s, last_s = self._item_ends_s
            frame["items"] = columns["items"]
            frame["first_item_ms"] = (first_s - columns["intended"]) * 1e3
            gaps = frame["items"].sub(1).where(frame["items"] > 1)
            frame["between_items_ms"] = (last_s - first_s) * 1e3 / gaps
        if columns["server_timing"].any():
            timings = [parse_server_timing(text) for text in columns["server_timing"].tolist()]
            frame = frame.join(pd.DataFrame(timings, index=frame.index).add_suffix("_ms"))
        return frame

    def _part_of(self, payload: NDArray[np.int64]) -> NDArray[np.str_]:
        import numpy as np

        ends = np.cumsum(list(self.parts.values()))
        return np.array(list(self.parts))[np.searchsorted(ends, payload, side="right")]

    @cached_property
    def ok(self) -> NDArray[np.bool_]:
        """Mask of the successful requests."""
        passed: NDArray[np.bool_] = self.columns["error"] == ""
        return passed

    @cached_property
    def latency_ms(self) -> NDArray[np.float64]:
        """From the scheduled time to the last byte; infinite for a failed request."""
        import numpy as np

        elapsed = (self.columns["finished"] - self.columns["intended"]) * 1e3
        return np.where(self.ok, elapsed, math.inf)

    @cached_property
    def lateness_ms(self) -> NDArray[np.float64]:
        """How late the generator sent each request."""
        late: NDArray[np.float64] = (self.columns["sent"] - self.columns["intended"]) * 1e3
        return late

    @cached_property
    def lateness_p99_ms(self) -> float:
        """p99 of the lateness; NaN without requests."""
        return analysis.percentile(self.lateness_ms, 0.99)

    # Figures

    @property
    def errors(self) -> dict[str, int]:
        """Number of failed requests by kind."""
        import numpy as np

        kinds, counts = np.unique(self.columns["error"][~self.ok], return_counts=True)
        return {str(kind): int(count) for kind, count in zip(kinds, counts, strict=True)}

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the figures: redirects with their targets, and wrong responses.

        For an app that streams, also streams that ended with a problem.
        """
        notes: dict[str, str] = {}
        for sample in self.failures:
            count = self.errors.get(sample.error, 0)
            if count and sample.error == "redirect":
                notes.setdefault("redirect", f"{count:,} redirects, {sample.detail}")
            elif count and sample.error == "empty":
                notes.setdefault("empty", f"{count:,} responses without a body")
            elif count and sample.error == "problem":
                notes.setdefault("problem", f"{count:,} streams did not end: {sample.detail}")
            elif count and sample.error == "unexpected":
                notes.setdefault("unexpected", f"{count:,} unexpected responses: {sample.detail}")
        return tuple(notes.values())

    @cached_property
    def asked_s(self) -> NDArray[np.float64] | None:
        """Scheduled send times within ``duration_s``; None for a closed loop, and a sample."""
        if self.sampled:
            return None
        planned_s = self.duration_s if self.planned_s is None else self.planned_s
        return self.arrivals.asked(planned_s, self.duration_s, self.columns["intended"])

    @cached_property
    def asked_rate(self) -> float | None:
        """Requests per second of the schedule; None for a closed loop."""
        times = self.asked_s
        return None if times is None else _per_second(len(times), self.duration_s)

    @entry_point
    def schedule(self) -> RecordedTimes:
        """Return the send times of this run as a schedule, which sends the same again.

        For instance those of a `steered` run.

        Raises:
            LoadError: nothing was sent.
        """
        return RecordedTimes.of(self.columns["intended"], self.duration_s)

    @property
    def sent_rate(self) -> float:
        """Requests per second that were sent, up to the last of them."""
        sent = self.columns["sent"][self.columns["error"] != "unsent"]
        last = float(sent[-1]) if len(sent) else 0.0
        return _per_second(len(sent), max(self.duration_s, last))

    @property
    def ok_rate(self) -> float:
        """Throughput: successful responses per second within the measured part."""
        within = int((self.ok & (self.columns["finished"] <= self.duration_s)).sum())
        return _per_second(within + self.carried, self.duration_s)

    def throughput(self, *, confidence: float = 0.95) -> analysis.Interval:
        """`ok_rate` with its interval, by the means of 20 parts of the run."""
        import numpy as np

        counts, _ = np.histogram(
            self.columns["finished"][self.ok], np.linspace(0, self.duration_s, PARTS + 1)
        )
        rates = counts * PARTS / max(self.duration_s, 1e-9)
        interval = analysis.mean_interval(rates, confidence=confidence)
        # Responses to warm-up requests count as well.
        shift = self.ok_rate - interval.value
        return analysis.Interval(self.ok_rate, interval.low + shift, interval.high + shift)

    @cached_property
    def percentiles(self) -> dict[str, Percentile]:
        """p50, p95, p99 and p99_9 of the latency; that of failed requests is infinite.

        A percentile has bounds only if the generator was on time for its share of the requests: to
        1 ms, or to 5% of the objective or of the percentile where that is more.
        """
        return {
            name: self._punctual(percentile, self.slo_ms or percentile.value_ms)
            for name, percentile in self._all_percentiles.items()
        }

    @cached_property
    def _all_percentiles(self) -> dict[str, Percentile]:
        return _percentiles(self.latency_ms)

    def _punctual(self, percentile: Percentile, limit_ms: float) -> Percentile:
        late_ms = analysis.percentile(self.lateness_ms, percentile.share)
        if not late_ms > lateness_limit_ms(limit_ms):
            return percentile
        return percentile._replace(at_least_ms=math.nan, at_most_ms=math.nan, late=True)

    @property
    def streams(self) -> bool:
        """Whether the app streams, so that there are times of items."""
        return "items" in self.columns

    @cached_property
    def first_item_ms(self) -> NDArray[np.float64]:
        """From the scheduled time to the first item, of each request but streams without items.

        Infinite for a failed request, whenever it failed.
        """
        import numpy as np

        elapsed: NDArray[np.float64] = (self._item_ends_s[0] - self.columns["intended"]) * 1e3
        elapsed[~self.ok] = math.inf
        return elapsed[~np.isnan(elapsed)]

    @cached_property
    def _item_ends_s(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """When the first and the last item of each request arrived; NaN without items."""
        return item_ends_s(self.columns["items"], self.item_times)

    @cached_property
    def between_items_ms(self) -> NDArray[np.float64]:
        """From one item of a request to the next, of all requests.

        Of a failed request that had items also the infinite time to the one that never came. Items
        that arrive together have 0 between them.
        """
        return gaps_ms(self.columns["items"], self.item_times, self.ok)

    @cached_property
    def item_percentiles(self) -> dict[str, dict[str, Percentile]]:
        """Percentiles of ``first_item`` and ``between_items``; empty if the app does not stream.

        Times between items of one request depend on each other, so they have no upper bound.
        """
        if not self.streams:
            return {}
        first, between = self.first_item_ms, self.between_items_ms
        return {
            "first_item": _percentiles(first),
            "between_items": _percentiles(between, bounded=False),
        }

    @property
    def over_slo(self) -> int | None:
        """Number of requests that exceeded the objective or failed; None without an objective."""
        return None if self.slo_ms is None else int((self.latency_ms > self.slo_ms).sum())

    @property
    def slo(self) -> SLO | None:
        """The objective that the test was given, or None."""
        return None if self.slo_ms is None else SLO(p99_ms=self.slo_ms)

    @property
    def slo_verdict(self) -> Outcome | None:
        """``"met"``, ``"missed"`` or ``"undecided"``; None without an objective.

        See `verdict`, which says why.
        """
        return None if self.slo is None else self.verdict().outcome

    @entry_point
    def verdict(self, slo: SLO | None = None) -> Verdict:
        """Judge the run by an SLO. A void run proves nothing.

        How late the generator may send follows from the limits of this SLO: see `void`.

        Args:
            slo: the objectives; by default the one that the test was given.

        Raises:
            LoadError: there is none.
        """
        slo = slo or self.slo
        if slo is None:
            raise LoadError(
                "there is no objective to judge by",
                where="LoadResult.verdict()",
                fix="result.verdict(SLO(p99_ms=150)), or load_test(..., slo_ms=150)",
            )
        verdict = slo.judge_percentiles(
            {
                name: self._punctual(self._all_percentiles[name], limit_ms)
                for name, limit_ms in slo.objectives
            }
        )
        void = self.void_at(slo.limit_ms)
        if void:
            return replace(verdict, outcome="undecided", reason=f"void: {'; '.join(void)}")
        return verdict

    @cached_property
    def void(self) -> tuple[str, ...]:
        """Why the figures are not valid; empty for a valid run.

        The generator checks itself: it sent late (p99 over 1 ms, or over 5% of the SLO where that
        is more), sent less than 99% of the schedule, or reached a limit of its own.
        """
        return self.void_at(self.slo_ms)

    def void_at(self, slo_ms: float | None) -> tuple[str, ...]:
        """Like `void`, for an objective in ms other than that of the run."""
        return void_reasons(
            self.arrivals,
            self.client,
            lateness_p99_ms=self.lateness_p99_ms,
            slo_ms=slo_ms,
            asked_rate=self.asked_rate,
            sent_rate=self.sent_rate,
        )

    def summary(self) -> dict[str, Any]:
        """The figures of the run as plain data, ready for JSON.

        ``certified`` names the percentiles with enough requests for an upper bound;
        ``p99_at_most_ms`` and the like are those bounds (99% confidence), else None. Of an app that
        streams also ``items``, and ``first_item_p99_ms`` and ``between_items_p99_ms`` and the like.
        """
        percentiles = self.percentiles.values()
        return {
            "target": self.target,
            "arrivals": self.arrivals.to_dict(),
            "duration_s": self.duration_s,
            "requests": len(self),
            "ok": int(self.ok.sum()),
            "errors": self.errors,
            "asked_rate": self.asked_rate,
            "sent_rate": self.sent_rate,
            "ok_rate": self.ok_rate,
            **{f"{p.name}_ms": p.value_ms for p in percentiles},
            "max_ms": float(self.latency_ms.max()) if len(self) else math.nan,
            **{f"{p.name}_at_most_ms": p.at_most_ms if p.certified else None for p in percentiles},
            "certified": [p.name for p in percentiles if p.certified],
            **self._item_figures,
            "slo_ms": self.slo_ms,
            "over_slo": self.over_slo,
            "slo_verdict": self.slo_verdict,
            "lateness_p99_ms": self.lateness_p99_ms,
            "client_cores": self.client.cores,
            "client_cpu_ms": self._client_cpu_ms,
            "interrupted": self.interrupted,
            "notes": list(self.notes),
            "void": list(self.void),
        }

    @property
    def _item_figures(self) -> dict[str, Any]:
        if not self.streams:
            return {}
        return {"items": len(self.item_times)} | {
            f"{series}_{name}_ms": percentile.value_ms
            for series, percentiles in self.item_percentiles.items()
            for name, percentile in percentiles.items()
        }

    @property
    def _client_cpu_ms(self) -> float:
        return 1e3 * self.client.cpu_s / len(self) if len(self) else math.nan

    # Storage and display

    def save(self, path: str | Path, *, compress: bool = True) -> Path:
        """Write the raw records to a ``.npz`` file (numpy's format, without pickle).

        Args:
            path: the file.
            compress: False is many times as fast, and the file several times as large.
        """
        path = Path(path)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        resultfile.write(path, values, compress=compress)
        return path

    def save_hgrm(self, path: str | Path) -> Path:
        """Write the percentiles as HdrHistogram's text (``.hgrm``), which its plotters read.

        In ms, to three significant digits. Failed requests count as ``timeout_s``.
        """
        return hdr.write(path, hdr.exact(self.latency_ms, self.timeout_s))

    @classmethod
    def load(cls, path: str | Path) -> LoadResult:
        """Read what `save` wrote.

        Raises:
            LoadError: the file is not one.
        """
        return cls(**resultfile.read(path))

    def plot(self) -> matplotlib.figure.Figure:
        """Draw rate and latency over time, and latency by percentile up to p99.9."""
        from mlkit.views.mpl.load import plot_load

        return plot_load(self)

    def __repr__(self) -> str:
        from mlkit.views.load import to_text

        return to_text(self)

    def _repr_html_(self) -> str:
        from mlkit.views.load import to_html

        return to_html(self)


def _percentiles(values_ms: NDArray[np.float64], *, bounded: bool = True) -> dict[str, Percentile]:
    if bounded:
        return {name: percentile_of(values_ms, name) for name in SHARES}
    return {
        name: Percentile(name, share, analysis.percentile(values_ms, share), math.nan, math.nan)
        for name, share in SHARES.items()
    }


def _per_second(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0

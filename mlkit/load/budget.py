"""Performance budgets as tests: ``assert_budget(result, SLO(p99_ms=150))``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from mlkit.errors import BudgetError, LoadError, entry_point
from mlkit.load import analysis
from mlkit.load.capacity import Capacity
from mlkit.load.results import LoadResult
from mlkit.load.slo import SLO, Outcome
from mlkit.load.spec import check_positive

__all__ = ["Budget", "Check", "assert_budget"]

State: TypeAlias = Literal["PASS", "FAIL", "UNDECIDED"]

STATES: dict[Outcome, State] = {"met": "PASS", "missed": "FAIL", "undecided": "UNDECIDED"}
CONFIDENCE = 0.99


class Check(NamedTuple):
    """One item of a budget: its state, the objective, and the measured value."""

    state: State
    objective: str
    measured: str


@dataclass(frozen=True, repr=False)
class Budget:
    """A budget that was checked. Its repr has no measured figures: it is the same in every run.

    Attributes:
        checks: one per item of the budget.
    """

    checks: tuple[Check, ...]

    @property
    def state(self) -> State:
        """``"PASS"`` if all items pass, ``"FAIL"`` if one fails, else ``"UNDECIDED"``."""
        states = {check.state for check in self.checks}
        return "FAIL" if "FAIL" in states else "UNDECIDED" if "UNDECIDED" in states else "PASS"

    def __repr__(self) -> str:
        return f"{self.state}: {', '.join(check.objective for check in self.checks)}"


@entry_point
def assert_budget(
    measured: LoadResult | Capacity,
    slo: SLO | None = None,
    *,
    rate: float | None = None,
    failed: float | None = None,
    allow_undecided: bool = False,
) -> Budget:
    """Check a measurement against a budget, in a test or in a notebook.

    ::

        assert_budget(load_test(app, photos, poisson(rate=50), duration_s=60), SLO(p99_ms=150))
        assert_budget(capacity(app, photos, SLO(p99_ms=150)), rate=80)

    Passing takes evidence (99% confidence), as does failing. Where a result is close to its budget,
    or short, neither is possible: it is undecided, which fails too unless ``allow_undecided`` is
    set.

    Args:
        measured: a `LoadResult`, or a `Capacity`.
        slo: limits of the latency; of a `LoadResult` only, by default its own.
        rate: least throughput in requests per second; of a `Capacity`, the rate that has to meet
            its SLO.
        failed: largest share of failed requests, e.g. 0.001; of a `LoadResult` only.
        allow_undecided: return an undecided budget instead of raising.

    Returns:
        the budget, whose repr is ``PASS: ...`` or ``UNDECIDED: ...``, the same in every run.

    Raises:
        BudgetError: it failed, or is undecided. It is an `AssertionError`.
        LoadError: an argument is invalid, or there is nothing to check.
    """
    if rate is not None:
        check_positive("assert_budget", "rate", rate, "requests per second above 0")
    if isinstance(measured, Capacity):
        budget = Budget((_capacity(measured, slo, rate, failed),))
    elif isinstance(measured, LoadResult):
        budget = Budget(_load(measured, slo or measured.slo, rate, failed))
    else:
        raise LoadError(
            "only a load test or a capacity has a budget",
            where="assert_budget(measured, ...)",
            expected="LoadResult or Capacity",
            got=type(measured).__name__,
        )
    if budget.state == "FAIL" or (budget.state == "UNDECIDED" and not allow_undecided):
        raise _error(budget)
    return budget


def _error(budget: Budget) -> BudgetError:
    short = [check for check in budget.checks if check.state != "PASS"]
    undecided = budget.state == "UNDECIDED"
    return BudgetError(
        "the budget is undecided" if undecided else "the budget is exceeded",
        expected=", ".join(check.objective for check in short),
        got=", ".join(check.measured for check in short),
        fix="measure for longer, or leave more room" if undecided else None,
    )


def _load(
    result: LoadResult, slo: SLO | None, rate: float | None, failed: float | None
) -> tuple[Check, ...]:
    checks = []
    is_void = bool(result.void if slo is None else result.void_at(slo.limit_ms))
    if slo is not None:
        verdict = result.verdict(slo)
        checks.append(Check(STATES[verdict.outcome], str(slo), verdict.reason))
    if rate is not None:
        checks.append(_throughput(result, rate, is_void))
    if failed is not None:
        checks.append(_failures(result, failed, is_void))
    if not checks:
        raise LoadError(
            "there is no budget to check",
            where="assert_budget(...)",
            fix="assert_budget(result, SLO(p99_ms=150))",
        )
    return tuple(checks)


def _throughput(result: LoadResult, rate: float, is_void: bool) -> Check:
    interval = result.throughput(confidence=2 * CONFIDENCE - 1)
    state: State = "UNDECIDED"
    if not is_void and interval.low >= rate:
        state = "PASS"
    elif not is_void and interval.high < rate:
        state = "FAIL"
    words = f"{interval.value:.3g}/s ({interval.low:.3g} to {interval.high:.3g})"
    return Check(state, f"at least {rate:g}/s", words)


def _failures(result: LoadResult, failed: float, is_void: bool) -> Check:
    if not 0 < failed < 1:
        raise LoadError(
            "invalid failed",
            where="assert_budget(failed=...)",
            expected="a share above 0 and below 1",
            got=repr(failed),
        )
    import numpy as np

    # A failed request is infinitely slow: the share holds if that percentile of 0 and 1 is 0.
    errors, share = (~result.ok).astype(float), 1 - failed
    inflation = analysis.inflation(np.where(result.ok, 0.0, math.inf), share)
    bounds = (
        bound(errors, share, confidence=CONFIDENCE, inflation=inflation)
        for bound in (analysis.at_least, analysis.at_most)
    )
    low, high = bounds
    state: State = "UNDECIDED"
    if not is_void and high == 0:
        state = "PASS"
    elif not is_void and low == 1:
        state = "FAIL"
    words = f"{int(errors.sum()):,} of {len(errors):,} failed"
    return Check(state, f"at most {failed:.3g} failed", words)


def _capacity(
    capacity: Capacity, slo: SLO | None, rate: float | None, failed: float | None
) -> Check:
    if rate is None or slo is not None or failed is not None:
        raise LoadError(
            "the budget of a capacity is a rate",
            where="assert_budget(capacity, ...)",
            fix="assert_budget(capacity(app, photos, SLO(p99_ms=150)), rate=80)",
        )
    state: State = "UNDECIDED"
    missed = [r for r, verdict in capacity.evidence.items() if verdict.outcome == "missed"]
    if capacity.rate is not None and capacity.rate >= rate:
        state = "PASS"
    elif missed and min(missed) <= rate:
        state = "FAIL"
    held = "no rate" if capacity.rate is None else f"{capacity.rate:.3g}/s"
    missing = f", {min(missed):.3g}/s missed it" if missed else ""
    return Check(state, f"{rate:g}/s at {capacity.slo}", f"{held} met it{missing}")

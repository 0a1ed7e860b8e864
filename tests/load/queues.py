"""Queues simulated by their recursions, and what theory says of them. Times are in ms."""

from __future__ import annotations

import math

import numpy as np


def md1(runs, count, load, *, service_ms=10.0, warmup=2000, seed=0):
    """Response times of M/D/1, an array of (runs, count); ``load`` is the utilisation.

    Lindley's recursion, as the distance of a random walk from its minimum so far.
    """
    gaps = np.random.default_rng(seed).exponential(service_ms / load, (runs, warmup + count))
    walk = np.cumsum(service_ms - gaps, axis=1)
    lowest = np.minimum(np.minimum.accumulate(walk, axis=1), 0)
    return (walk - lowest)[:, warmup:] + service_ms


def mm2(runs, count, load, *, service_ms=10.0, warmup=1000, seed=0):
    """Response times of M/M/2 by the recursion of Kiefer and Wolfowitz; see `md1`."""
    stream = np.random.default_rng(seed)
    gaps = stream.exponential(service_ms / load / 2, (warmup + count, runs))
    services = stream.exponential(service_ms, (warmup + count, runs))
    work, responses = np.zeros((2, runs)), np.empty((warmup + count, runs))
    for k in range(warmup + count):
        work = np.sort(np.maximum(work - gaps[k], 0), axis=0)
        work[0] += services[k]
        responses[k] = work[0]
    return responses[warmup:].T


def md1_mean(load, service_ms=10.0):
    """Mean response time of M/D/1, by Pollaczek and Khinchine."""
    return service_ms * (1 + load / (2 * (1 - load)))


def md1_quantile(share, load, service_ms=10.0):
    """Quantile of the response time of M/D/1, by Erlang's distribution of the waiting time."""
    rate = load / service_ms

    def waits_less(wait):
        steps = range(int(wait / service_ms) + 1)
        terms = (
            (x := rate * (k * service_ms - wait)) ** k / math.factorial(k) * math.exp(-x)
            for k in steps
        )
        return (1 - load) * math.fsum(terms)

    return service_ms + solve(waits_less, share)


def mm2_mean(load, service_ms=10.0):
    """Mean response time of M/M/2."""
    return service_ms / (1 - load**2)


def mm2_quantile(share, load, service_ms=10.0):
    """Quantile of the response time of M/M/2: the wait, by Erlang C, plus the service."""
    mu, theta = 1 / service_ms, 2 * (1 - load) / service_ms
    waits = 2 * load**2 / (1 + load)

    def responds_within(t):
        both = (theta * math.exp(-mu * t) - mu * math.exp(-theta * t)) / (theta - mu)
        return 1 - (1 - waits) * math.exp(-mu * t) - waits * both

    return solve(responds_within, share)


def solve(cdf, share):
    """The quantile of a distribution, by bisection."""
    low, high = 0.0, 1.0
    while cdf(high) < share:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cdf(middle) < share else (low, middle)
    return high

"""The few formulas that rules need, in the standard library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from statistics import NormalDist

from kaizen.records import Estimate

_NORMAL = NormalDist()


def psi(reference: Sequence[int], current: Sequence[int]) -> float:
    """Population stability index of two sets of counts over the same bins; half a row is added to every bin.

    sum((p - q) * ln(p / q)); below 0.1 is usually called stable, above 0.2 a shift (Siddiqi, Credit Risk Scorecards).
    """
    bins = len(reference)
    n, m = sum(reference) + bins / 2, sum(current) + bins / 2
    shares = [((r + 0.5) / n, (c + 0.5) / m) for r, c in zip(reference, current, strict=True)]
    return sum((q - p) * math.log(q / p) for p, q in shares)


def jensen_shannon(reference: Sequence[int], current: Sequence[int]) -> float:
    """Jensen-Shannon distance of two sets of counts over the same bins: 0 for equal shares, 1 for disjoint ones.

    Square root of the divergence in bits (Endres & Schindelin 2003).
    """
    n, m = sum(reference), sum(current)
    if not n or not m:
        return float(n != m)
    divergence = 0.0
    for r, c in zip(reference, current, strict=True):
        p, q = r / n, c / m
        middle = (p + q) / 2
        divergence += sum(share * math.log2(share / middle) / 2 for share in (p, q) if share)
    return math.sqrt(max(0.0, divergence))


def kolmogorov_smirnov(reference: Sequence[int], current: Sequence[int]) -> float:
    """Largest distance between the two distribution functions at the edges of ordered bins (at most the exact one)."""
    n, m = sum(reference), sum(current)
    if not n or not m:
        return float(n != m)
    steps = zip(accumulate(reference), accumulate(current), strict=True)
    return max(abs(r / n - c / m) for r, c in steps)


def psi_p_value(value: float, bins: int, reference_rows: int, current_rows: int) -> float:
    """Chance of a PSI this large between samples of one distribution, rows being independent.

    PSI / (1/n + 1/m) is asymptotically chi-square with B - 1 degrees (Yurdakul & Naranjo 2020).
    """
    if bins < 2 or not reference_rows or not current_rows:
        return 1.0
    return chi_square_tail(value / (1 / reference_rows + 1 / current_rows), bins - 1)


def chi_square_tail(x: float, degrees: int) -> float:
    """P(X > x) for chi-square X: the regularised upper incomplete gamma function Q(degrees / 2, x / 2).

    By series below, by continued fraction above (Abramowitz & Stegun 6.5.29 and 6.5.31).
    """
    a, z = degrees / 2, x / 2
    if z <= 0:
        return 1.0
    scale = math.exp(-z + a * math.log(z) - math.lgamma(a))
    if z < a + 1:
        term = total = 1 / a
        for k in range(1, 1000):
            term *= z / (a + k)
            total += term
            if term < total * 1e-15:
                break
        return max(0.0, 1 - scale * total)
    b = z + 1 - a
    c, d = 1e300, 1 / b
    fraction = d
    for k in range(1, 1000):
        step = -k * (k - a)
        b += 2
        d = 1 / (step * d + b)
        c = b + step / c
        fraction *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return min(1.0, scale * fraction)


def standard_error(estimate: Estimate, confidence: float) -> float | None:
    """The standard error that a central interval of ``confidence`` stands for, were it normal."""
    if estimate.low is None or estimate.high is None:
        return None
    return (estimate.high - estimate.low) / (2 * _NORMAL.inv_cdf((1 + confidence) / 2))


def upper_tail(z: float) -> float:
    """P(Z > z) for a standard normal Z."""
    return 1 - _NORMAL.cdf(z)

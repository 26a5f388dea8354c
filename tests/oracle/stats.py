"""Values of tests/t_stats.c, by scipy. Run by hand: python3 tests/oracle/stats.py (needs numpy, scipy)."""
import itertools
import numpy as np
import scipy
from scipy import stats


def differences(n, shift):  # the same formula as in the test
    i = np.arange(n)
    return np.sin(1.7 * i * i + 0.3) + shift


def ties(n):  # quarters, some of them zero
    return np.round(4 * differences(n, 0.3)) / 4


def wilcoxon(d):
    d = d[d != 0]
    exact = len(set(np.abs(d))) == len(d) and len(d) <= 50
    return stats.wilcoxon(d, correction=True, method="exact" if exact else "approx").pvalue


def flips(d):
    n, bar = len(d), abs(d.sum()) - 1e-12 * np.abs(d).sum()
    signs = np.array(list(itertools.product([-1, 1], repeat=n - 1)), dtype=np.int8)
    return np.mean(np.abs(signs @ d[1:] + d[0]) >= bar)


print("scipy", scipy.__version__)
for n, shift in [(5, 0.4), (8, 0.4), (16, 0.3), (24, 0.3), (50, 0.15), (51, 0.15), (200, 0.1)]:
    d = differences(n, shift)
    print(f"    {{{n}, {shift}, {wilcoxon(d):.15g}, {flips(d) if n <= 20 else np.nan:.15g}}},")
for n in (9, 20, 60):
    print(f"    {{{n}, 0.3, {wilcoxon(ties(n)):.15g}, {flips(ties(n)) if n <= 20 else np.nan:.15g}}}, // ties")
for n, shift in [(12, 0.4), (24, 0.3), (40, 0.0)]:
    d = np.exp(2 * differences(n, shift))
    r = stats.bootstrap((d,), np.mean, n_resamples=400000, method="BCa", random_state=1, batch=4000)
    ci = r.confidence_interval
    p = stats.bootstrap((d,), np.mean, n_resamples=400000, method="percentile", random_state=1, batch=4000).confidence_interval
    print(f"    {{{n}, {shift}, {ci.low:.6f}, {ci.high:.6f}, {p.low:.6f}, {p.high:.6f}}},")

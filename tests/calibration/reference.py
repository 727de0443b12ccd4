"""Slow and obvious float64 references for the portable observers."""

import math

import numpy as np


def histogram(values, bins=8192):
    """Counts by signed bin, with the width that the final maximum asks for."""
    amax = max(abs(float(v)) for v in values)
    exponent = -100
    while amax >= 2.0**exponent:
        exponent += 1
    width = 2.0 ** (exponent - int(math.log2(bins)))
    counts = {}
    for v in values:
        code = math.trunc(float(v) / width)
        counts[code] = counts.get(code, 0) + 1
    return exponent, counts


def exact_percentile(values, percentile):
    """The smallest magnitude that the percentage of all magnitudes does not exceed."""
    magnitudes = sorted(abs(float(v)) for v in values)
    rank = math.ceil(len(magnitudes) * percentile / 100)
    return magnitudes[max(rank, 1) - 1]


def divergence(counts, kept, levels):
    """Kullback-Leibler divergence of one candidate, in plain Python."""
    counts = [float(c) for c in counts]
    counts[0] = counts[1]
    reference = counts[:kept]
    reference[-1] += sum(counts[kept:])
    quantized = [0.0] * kept
    for level in range(levels):
        group = [b for b in range(kept) if level * kept <= b * levels < (level + 1) * kept]
        filled = [b for b in group if counts[b] > 0]
        for b in filled:
            quantized[b] = sum(counts[g] for g in filled) / len(filled)
    total, kept_total = sum(reference), sum(quantized)
    result = 0.0
    for p, q in zip(reference, quantized, strict=True):
        if p > 0:
            if q == 0:
                return math.inf
            result += p / total * math.log((p / total) / (q / kept_total))
    return result


def squared_error(counts, centres, threshold, top):
    """Sum of squared errors of a symmetric code, each value at its bin's centre."""
    scale = threshold / top
    codes = np.minimum(np.rint(np.asarray(centres) / scale), top)
    return float((((codes * scale) - centres) ** 2 * counts).sum())

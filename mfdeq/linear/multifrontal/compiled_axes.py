"""The order of vertices along the direction of their greatest variance, compiled by numba."""

from __future__ import annotations

from typing import Any

from ...arrays.backend import host
from ...arrays.jit import njit

JACOBI_SWEEPS = 12
MAX_BUCKET = 64  # keys in one bucket that are sorted by insertions
NEAR_ZERO = 1e-15  # of an entry off the diagonal, over the trace


@njit
def order_along_axes(coordinates: Any, inside: Any, sizes: Any) -> Any:
    """Sort the vertices of each part along the direction of their greatest variance."""
    dimensions = coordinates.shape[1]
    total = inside.shape[0]
    ordered = host.empty_like(inside)
    largest = sizes.max()
    centered, keys = host.empty((largest, dimensions)), host.empty(largest)
    buckets, sorted_keys = host.empty(largest + 1, dtype=host.int64), host.empty(total)
    mean, axis = host.empty(dimensions), host.empty(dimensions)
    covariance = host.empty((dimensions, dimensions))
    vectors = host.empty((dimensions, dimensions))
    start = 0
    for part in range(sizes.shape[0]):
        size = sizes[part]
        mean[:] = 0.0
        for k in range(size):
            v = inside[start + k]
            for d in range(dimensions):
                x = coordinates[v, d]
                centered[k, d] = x
                mean[d] += x
        mean /= size
        covariance[:] = 0.0
        for k in range(size):
            for a in range(dimensions):
                centered[k, a] -= mean[a]
                for b in range(a + 1):
                    covariance[a, b] += centered[k, a] * centered[k, b]
        for a in range(dimensions):
            for b in range(a):
                covariance[b, a] = covariance[a, b]
        _leading_axis(covariance, vectors, axis)
        for k in range(size):
            along = 0.0
            for d in range(dimensions):
                along += axis[d] * centered[k, d]
            keys[k] = along
        _sort(inside, ordered, sorted_keys, start, size, keys, buckets)
        start += size
    return ordered


@njit
def _sort(
    inside: Any, ordered: Any, sorted_keys: Any, start: Any, size: Any, keys: Any, buckets: Any
) -> None:
    """Sort the vertices of one part by keys, stably: by buckets, then by insertions.

    If a bucket is large, as where a few keys are far from all others, the part is sorted by merges.
    """
    low, high = keys[:size].min(), keys[:size].max()
    scale = (size - 1) / (high - low) if high > low else 0.0
    buckets[: size + 1] = 0
    for k in range(size):
        buckets[int(scale * (keys[k] - low)) + 1] += 1
    if buckets[: size + 1].max() > MAX_BUCKET:
        order = host.argsort(keys[:size], kind="mergesort")
        for k in range(size):
            ordered[start + k] = inside[start + order[k]]
        return
    for b in range(size):
        buckets[b + 1] += buckets[b]
    for k in range(size):
        b = int(scale * (keys[k] - low))
        at = start + buckets[b]
        buckets[b] += 1
        ordered[at], sorted_keys[at] = inside[start + k], keys[k]
    for k in range(start + 1, start + size):
        v, key = ordered[k], sorted_keys[k]
        j = k
        while j > start and sorted_keys[j - 1] > key:
            ordered[j], sorted_keys[j] = ordered[j - 1], sorted_keys[j - 1]
            j -= 1
        ordered[j], sorted_keys[j] = v, key


@njit
def _leading_axis(matrix: Any, vectors: Any, axis: Any) -> None:
    """Compute the eigenvector of the largest eigenvalue by Jacobi's rotations."""
    n = matrix.shape[0]
    trace = 0.0
    for i in range(n):
        trace += matrix[i, i]
        for j in range(n):
            vectors[i, j] = 1.0 if i == j else 0.0
    for _ in range(JACOBI_SWEEPS):
        largest = 0.0
        for p in range(n):
            for q in range(p + 1, n):
                off = matrix[p, q]
                largest = max(largest, abs(off))
                if abs(off) <= NEAR_ZERO * trace:
                    continue
                ratio = 0.5 * (matrix[q, q] - matrix[p, p]) / off
                t = 1.0 / (abs(ratio) + host.sqrt(ratio * ratio + 1.0))
                if ratio < 0.0:
                    t = -t
                c = 1.0 / host.sqrt(t * t + 1.0)
                s = t * c
                for k in range(n):
                    x, y = matrix[k, p], matrix[k, q]
                    matrix[k, p], matrix[k, q] = c * x - s * y, s * x + c * y
                for k in range(n):
                    x, y = matrix[p, k], matrix[q, k]
                    matrix[p, k], matrix[q, k] = c * x - s * y, s * x + c * y
                    x, y = vectors[k, p], vectors[k, q]
                    vectors[k, p], vectors[k, q] = c * x - s * y, s * x + c * y
        if largest <= NEAR_ZERO * trace:
            break
    best = 0
    for i in range(1, n):
        if matrix[i, i] >= matrix[best, best]:
            best = i
    top = 0
    for i in range(1, n):
        if abs(vectors[i, best]) > abs(vectors[top, best]):
            top = i
    sign = -1.0 if vectors[top, best] < 0.0 else 1.0
    for i in range(n):
        axis[i] = sign * vectors[i, best]

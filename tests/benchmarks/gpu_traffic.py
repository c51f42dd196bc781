"""The bytes that products read and write, and the bandwidth of a copy.

Counted are the values and indices of matrices, in the width in which they are stored, and vectors,
read and written once by each sparse product, each level of a V-cycle and each vector update of the
iterations. Stacking and splitting of vectors, and the dense inverse of the coarsest level, are not
counted, so that the bandwidth that follows is a lower bound.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from unittest import mock

from mfdeq.arrays.sparse import stored_bytes
from mfdeq.linear.krylov.factors import KrylovFactor
from mfdeq.linear.krylov.gmres import _SeparateSpaces
from mfdeq.linear.preconditioners.amg_cycle import AMGCycle
from mfdeq.operators.matrix_operator import Matrix

# Vectors that an iteration of conjugate gradients reads or writes outside of its two products: two
# inner products, a step (four read, two written) and a new direction (two read, one written).
CG = 13
# The same of an iteration of GMRES, beside three reads of its basis: a copy into and one out of it,
# a subtraction, two norms and a scaling.
GMRES = 15


class Traffic:
    """Bytes so far."""

    def __init__(self) -> None:
        self.bytes = 0


def _product(op, x, out) -> int:
    return stored_bytes(op.array) + x.nbytes + out.nbytes


def _cycle(cycle, b, out) -> int:
    """G b, R b and P c added to the first on each level, and the conversions of both ends."""
    inner = cycle._inner.itemsize
    columns, itemsize = out.nbytes // out.dtype.itemsize // out.shape[0], out.dtype.itemsize
    moved = 2 * out.nbytes  # the scaling of the result
    if inner < itemsize:
        moved += 2 * out.shape[0] * columns * (inner + itemsize)
    for level in cycle.levels:
        coarse, fine = level.R.shape
        moved += sum(stored_bytes(part) for part in (level.G, level.P, level.R))
        moved += (5 * fine + 2 * coarse) * columns * inner
    return moved


def _cg(factor, residual, out) -> int:
    """Of one column: blocks are not counted by this."""
    return CG * factor.A.shape[0] * factor.backend.itemsize if factor.solver.method == "cg" else 0


def _gmres(space, out) -> int:
    """After the step, which has made the basis one longer."""
    columns, _, rows = space.basis.shape
    copies = 2 if space.preconditioned is not None else 0
    return columns * rows * space.backend.itemsize * (3 * space.steps + GMRES + copies)


def _combined(space, out) -> int:
    return space.steps * out.nbytes + 3 * out.nbytes


COUNTED = (
    (Matrix, "_apply", _product),
    (Matrix, "_apply_adjoint", _product),
    (AMGCycle, "_apply", _cycle),
    (AMGCycle, "_apply_adjoint", _cycle),
    (KrylovFactor, "_record", _cg),
    (_SeparateSpaces, "_extend", _gmres),
    (_SeparateSpaces, "correction", _combined),
)


@contextlib.contextmanager
def counted() -> Iterator[Traffic]:
    """Count what is done with one vector inside."""
    traffic = Traffic()

    def counting(method: Callable, cost: Callable) -> Callable:
        @functools.wraps(method)
        def wrapped(*args):
            out = method(*args)
            traffic.bytes += cost(*args, out)
            return out

        return wrapped

    with contextlib.ExitStack() as stack:
        for owner, name, cost in COUNTED:
            method = counting(getattr(owner, name), cost)
            stack.enter_context(mock.patch.object(owner, name, method))
        yield traffic


def fine_products(factor) -> list[tuple[Callable, int]]:
    """The sparse products on the finest level, and what each of them reads and writes.

    With A and the three matrices of the V-cycle, and their transposes where A is not symmetric.
    """
    backend, level = factor.backend, factor.M.levels[0]
    matrices = [backend.kernels.products(factor.A.array), level.G, level.P, level.R]
    if factor.solver.method != "cg":
        matrices += [matrix.T for matrix in matrices]
    found = []
    for matrix in matrices:
        x = backend.xp.ones(matrix.shape[1], dtype=matrix.dtype)
        moved = stored_bytes(matrix) + (matrix.shape[0] + x.shape[0]) * matrix.dtype.itemsize
        found.append((functools.partial(matrix.__matmul__, x), moved))
    return found

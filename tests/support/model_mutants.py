"""Mutants of any model: one field of its Linearization is wrong, whatever its form.

A mutation returns the fields of a model with one changed. It does not depend on the model: a
mutation that changes nothing (a symmetric block transposed, a zero block dropped) is found by
comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

import mfdeq

BLOCKS = ("params_params", "state_params", "state_state")


@dataclass(frozen=True)
class At:
    """The point where a model is linearized, and its original linearization there."""

    model: Any
    h: np.ndarray
    theta: np.ndarray

    def given(self, at_h: float = 1.0, at_theta: float = 1.0) -> mfdeq.Linearization:
        original = super(type(self.model), self.model) if is_mutant(self.model) else self.model
        return original.linearize(at_h * self.h, at_theta * self.theta)

    @property
    def sizes(self):
        return self.model.param_size, self.model.state_size


@dataclass(frozen=True)
class Mutation:
    """A mutation: `change(fields, at)` returns the fields with a wrong one, named `field`."""

    field: str
    how: str
    change: Callable[[mfdeq.Linearization, At], mfdeq.Linearization]

    def __str__(self):
        return f"{self.field} {self.how}".replace(" ", "_")


def is_mutant(model):
    return getattr(type(model), "mutation", None) is not None


def mutant(model, mutation):
    """Return the model with one wrong field in its linearizations."""

    def linearize(self, h, theta):
        at = At(self, h, theta)
        return mutation.change(at.given(), at)

    kind = type(type(model).__name__, (type(model),), {"mutation": mutation})
    kind.linearize = linearize
    changed = object.__new__(kind)
    changed.__dict__.update(model.__dict__)
    return changed


# Fields in any form


def entries(M):
    """Return a field as a CSR array or a dense array."""
    if sp.issparse(M):
        return sp.csr_array(M)
    return np.array(M) if isinstance(M, np.ndarray) else M @ np.eye(M.shape[1])


def blocks_of(curvature, sizes):
    """Return the three blocks of a curvature of blocks or products, with zeros for None."""
    P, N = sizes
    if callable(curvature):
        curvature = mfdeq.Curvature(apply=curvature)
    if curvature.apply is not None:
        one = [curvature.apply(e[:P], e[P:]) for e in np.eye(P + N)]
        whole = np.stack([np.concatenate(columns) for columns in one], axis=1)
        return dict(zip(BLOCKS, (whole[:P, :P], whole[P:, :P], whole[P:, P:]), strict=True))
    shapes = {"params_params": (P, P), "state_params": (N, P), "state_state": (N, N)}
    given = {name: getattr(curvature, name) for name in BLOCKS}
    return {
        name: sp.csr_array(shapes[name]) if block is None else entries(block)
        for name, block in given.items()
    }


def product(blocks, u, z):
    pp, sp_, ss = (blocks[name] for name in BLOCKS)
    return pp @ u + sp_.T @ z, sp_ @ u + ss @ z


# Changes of a matrix


def like(M, changed):
    """Convert dense entries to the form of M, which decides the choice of solvers."""
    return sp.csr_array(changed) if sp.issparse(M) else changed


def rows(pick, factor):
    """Return a change that multiplies one of the nonzero rows of a matrix."""

    def change(M):
        sizes = abs(M).sum(axis=1)
        row = pick(np.flatnonzero(sizes), sizes) if np.any(sizes) else 0
        return like(M, sp.diags_array(np.where(np.arange(M.shape[0]) == row, factor, 1.0)) @ M)

    return change


def first(found, sizes):
    return found[0]


def last(found, sizes):
    return found[-1]


def quietest(found, sizes):
    return found[np.argmin(sizes[found])]


def dense(M):
    return M.toarray() if sp.issparse(M) else np.array(M)


def entry_dropped(M):
    """Set the largest off-diagonal entry to zero, or the largest entry if there is none."""
    D = dense(M)
    off = np.where(np.eye(*D.shape, dtype=bool), 0.0, abs(D))
    D[np.unravel_index(np.argmax(off if off.any() else abs(D)), D.shape)] = 0.0
    return like(M, D)


def shifted(M):
    D = dense(M)
    return like(M, D + 1e-3 * np.max(abs(D), initial=0.0) * np.eye(*D.shape))


def skewed(M):
    """Add a skew matrix, which leaves the symmetric part unchanged."""
    D = dense(M)
    upper = np.triu(D, 1)
    if not upper.any():
        upper = np.triu(np.full_like(D, np.max(abs(D), initial=0.0)), 1)
    return like(M, D + upper - upper.T)


def transposed(M):
    return like(M, M.T) if M.shape[0] == M.shape[1] else M


MATRIX = {
    "sign": lambda M: -1.0 * M,
    "double": lambda M: 2.0 * M,
    "half": lambda M: 0.5 * M,
    "dropped": lambda M: 0.0 * M,
    "off by 1e-3": lambda M: 1.001 * M,
    "transposed": transposed,
    "absolute": abs,
    "diagonal only": lambda M: like(M, np.where(np.eye(*M.shape), dense(M), 0.0)),
    "no diagonal": lambda M: like(M, np.where(np.eye(*M.shape), 0.0, dense(M))),
    "upper half": lambda M: like(M, np.triu(dense(M))),
    "diagonal shifted": shifted,
    "a column late": lambda M: like(M, np.roll(dense(M), 1, axis=1)),
    "a row late": lambda M: like(M, np.roll(dense(M), 1, axis=0)),
    "an entry dropped": entry_dropped,
    "first row dropped": rows(first, 0.0),
    "first row off by 1e-3": rows(first, 1.001),
    "last row double": rows(last, 2.0),
    "last row sign": rows(last, -1.0),
    "quietest row dropped": rows(quietest, 0.0),
    "quietest row off by 1e-3": rows(quietest, 1.001),
}
SQUARE = {"for I - it": lambda M: like(M, np.eye(*M.shape) - M)}
SYMMETRIC = {"skewed": skewed}
ADJOINT = {  # wrong adjoints of an operator whose product is correct
    "adjoint sign": lambda M, y: -(M.T @ y),
    "adjoint double": lambda M, y: 2 * (M.T @ y),
    "adjoint dropped": lambda M, y: 0 * (M.T @ y),
    "adjoint off by 1e-3": lambda M, y: 1.001 * (M.T @ y),
    "adjoint of its own": lambda M, y: M @ y if M.shape[0] == M.shape[1] else M.T @ y,
    "adjoint one row off": lambda M, y: rows(last, 2.0)(M).T @ y,
    "adjoint quietest row off": lambda M, y: rows(quietest, 2.0)(M).T @ y,
    "adjoint quietest column off": lambda M, y: rows(quietest, 2.0)(like(M, M.T)) @ y,
}


def with_adjoint(M, adjoint):
    M = entries(M)
    kept = {"matvec": lambda x: M @ x, "matmat": lambda X: M @ X}
    wrong = {"rmatvec": lambda y: adjoint(M, y), "rmatmat": lambda Y: adjoint(M, Y)}
    return LinearOperator(M.shape, **kept, **wrong, dtype=M.dtype)


# Changes of a field


def of_matrix(name, change):
    return lambda given, at: replace(given, **{name: change(entries(getattr(given, name)))})


def of_adjoint(name, adjoint):
    return lambda given, at: replace(given, **{name: with_adjoint(getattr(given, name), adjoint)})


def of_block(name, change):
    def mutate(given, at):
        def curvature(lam):
            blocks = blocks_of(given.curvature(lam), at.sizes)
            return mfdeq.Curvature(**{**blocks, name: change(blocks[name])})

        return replace(given, curvature=curvature)

    return mutate


def of_block_adjoint(adjoint):
    return of_block("state_params", lambda M: with_adjoint(M, adjoint))


def of_lam(change):
    return lambda given, at: replace(given, curvature=lambda lam: given.curvature(change(lam)))


def of_product(change):
    """Return a change that replaces the curvature's product by change(blocks, u, z)."""

    def mutate(given, at):
        def curvature(lam):
            blocks = blocks_of(given.curvature(lam), at.sizes)
            return mfdeq.Curvature(apply=lambda u, z: change(blocks, u, z))

        return replace(given, curvature=curvature)

    return mutate


def stale(name, at_h, at_theta):
    def mutate(given, at):
        return replace(given, **{name: getattr(at.given(at_h, at_theta), name)})

    return mutate


def of_second(change):
    """Return a change that replaces second(a, b) by change(second, a, b)."""
    return lambda given, at: replace(given, second=lambda a, b: change(given.second, a, b))


def pure(f, a, b, *parts):
    """Return f''[a, b] for only these parts (0: parameters, 1: state) of a and b."""
    kept = (
        [x if i == part else 0 * x for i, x in enumerate(ab)]
        for ab, part in zip((a, b), parts, strict=True)
    )
    return f(*(tuple(x) for x in kept))


def one_row(f, a, b, row, factor):
    value = np.array(f(a, b))
    value[row] *= factor
    return value


STALE = {"stale": (0.8, 1.2), "stale state": (0.9, 1.0), "stale parameters": (1.0, 0.9)}
LAM = {
    "of -lam": lambda lam: -lam,
    "of 2 lam": lambda lam: 2 * lam,
    "of |lam|": abs,
    "of ones": np.ones_like,
    "of lam reversed": lambda lam: lam[::-1].copy(),
    "of lam but the first": lambda lam: np.where(np.arange(lam.size), lam, 0.0),
    "of lam but the last": lambda lam: np.where(np.arange(lam.size)[::-1], lam, 0.0),
}
PRODUCT = {
    "mixed one-sided": lambda b, u, z: (
        b["params_params"] @ u,
        b["state_params"] @ u + b["state_state"] @ z,
    ),
    "mixed one-sided, double": lambda b, u, z: (
        b["params_params"] @ u + 2 * (b["state_params"].T @ z),
        b["state_state"] @ z,
    ),
    "mixed of opposite signs": lambda b, u, z: (
        b["params_params"] @ u - b["state_params"].T @ z,
        b["state_params"] @ u + b["state_state"] @ z,
    ),
}
SECOND = {
    "sign": lambda f, a, b: -f(a, b),
    "double": lambda f, a, b: 2 * f(a, b),
    "half": lambda f, a, b: f(a, b) / 2,
    "dropped": lambda f, a, b: 0 * f(a, b),
    "off by 1e-3": lambda f, a, b: 1.001 * f(a, b),
    "no params": lambda f, a, b: f(a, b) - pure(f, a, b, 0, 0),
    "no state": lambda f, a, b: f(a, b) - pure(f, a, b, 1, 1),
    "one mixed term": lambda f, a, b: f(a, b) - pure(f, a, b, 0, 1),
    "other mixed term": lambda f, a, b: f(a, b) - pure(f, a, b, 1, 0),
    "no mixed": lambda f, a, b: f(a, b) - pure(f, a, b, 0, 1) - pure(f, a, b, 1, 0),
    "one-sided": lambda f, a, b: f(a, b) + pure(f, a, b, 0, 1) - pure(f, a, b, 1, 0),
    "of a twice": lambda f, a, b: f(a, a),
    "of b twice": lambda f, a, b: f(b, b),
    "first row dropped": lambda f, a, b: one_row(f, a, b, 0, 0.0),
    "last row double": lambda f, a, b: one_row(f, a, b, -1, 2.0),
    "last row off by 1e-3": lambda f, a, b: one_row(f, a, b, -1, 1.001),
}

MUTATIONS = [
    *(Mutation(f, n, of_matrix(f, c)) for f in ("d_state", "d_params") for n, c in MATRIX.items()),
    *(Mutation("d_state", n, of_matrix("d_state", c)) for n, c in SQUARE.items()),
    *(
        Mutation(f, n, of_adjoint(f, c))
        for f in ("d_state", "d_params")
        for n, c in ADJOINT.items()
    ),
    *(
        Mutation(f, n, stale(f, *by))
        for f in ("d_state", "d_params", "curvature", "second")
        for n, by in STALE.items()
    ),
    *(Mutation(f"curvature.{b}", n, of_block(b, c)) for b in BLOCKS for n, c in MATRIX.items()),
    *(
        Mutation(f"curvature.{b}", n, of_block(b, c))
        for b in ("params_params", "state_state")
        for n, c in SYMMETRIC.items()
    ),
    *(Mutation("curvature.state_params", n, of_block_adjoint(c)) for n, c in ADJOINT.items()),
    *(Mutation("curvature", n, of_lam(c)) for n, c in LAM.items()),
    *(Mutation("curvature.state_params", n, of_product(c)) for n, c in PRODUCT.items()),
    *(Mutation("second", n, of_second(c)) for n, c in SECOND.items()),
]


# Whether a mutation changes anything


def same(left, right):
    """Return True if matrices agree to rounding, each row relative to its own size."""
    left, right = np.atleast_2d(dense(left)), np.atleast_2d(dense(right))
    allowed = 1e-12 * np.max(abs(left), axis=1, initial=0.0)
    return bool(np.all(np.max(abs(left - right), axis=1, initial=0.0) <= allowed))


def matrices(M):
    """Return M and the transpose of its adjoint as matrices."""
    return entries(M), (entries(M.H).T if isinstance(M, LinearOperator) else entries(M))


def halves(curvature, sizes):
    """Return the blocks that the products use, including both mixed ones and their adjoints."""
    if not callable(curvature) and curvature.apply is None:
        mixed = curvature.state_params
        lower = [] if mixed is None or not isinstance(mixed, LinearOperator) else matrices(mixed)
        return [*blocks_of(curvature, sizes).values(), *lower]
    P, N = sizes
    apply = curvature if callable(curvature) else curvature.apply
    return [np.stack([np.concatenate(apply(e[:P], e[P:])) for e in np.eye(P + N)], axis=1)]


def changes_anything(model, mutation, h, theta):
    """Return True if the mutated field differs from the original at (h, theta)."""
    at = At(model, h, theta)
    right, rng = at.given(), np.random.default_rng(0)
    wrong = mutation.change(right, At(mutant(model, mutation), h, theta))
    field = mutation.field.partition(".")[0]
    if field == "second":
        P, N = at.sizes
        a, b = ((rng.standard_normal(P), rng.standard_normal(N)) for _ in range(2))
        columns = right.second(a, b)[:, None], wrong.second(a, b)[:, None]
        return not same(*columns)
    if field == "curvature":
        lam = rng.standard_normal(model.state_size)
        blocks = blocks_of(right.curvature(lam), at.sizes)
        found = halves(wrong.curvature(lam), at.sizes)
        if len(found) == 1:
            pp, mixed, ss = (dense(block) for block in blocks.values())
            return not same(np.block([[pp, mixed.T], [mixed, ss]]), found[0])
        twice = [*blocks.values(), *[blocks["state_params"]] * (len(found) - 3)]
        return not all(same(*pair) for pair in zip(twice, found, strict=True))
    kept = entries(getattr(right, field))
    return not all(same(kept, M) for M in matrices(getattr(wrong, field)))

"""What Newton's method for a batch needs of its model: values and Newton's steps of all samples."""

from __future__ import annotations

from typing import Any, Protocol

from ..arrays import dense_blocks
from ..arrays.backend import Array, Backend, array_on_host, host
from ..linear.block_diagonal import singular_blocks
from ..models.model import Model
from ..models.problem import Problem


class BatchModel(Protocol):
    """What `SampleNewton` and `BatchedEquilibrium` need of a model of many samples.

    Attributes
    ----------
    samples, sample_size : int
        The number of samples, and of the unknowns of each.
    tolerates_failures : bool
        Whether samples without an equilibrium are left out.
    """

    samples: int
    sample_size: int
    tolerates_failures: bool

    def sample_values(self, H: Array, theta: Array) -> Array:
        """Return f of each row of H, (samples, n), with NaN where there is no value."""

    def sample_blocks(self, H: Array, theta: Array) -> tuple[Array, Array]:
        """Return the values and the Jacobians, (samples, n, n), with NaN where there are none."""

    def sample_step(self, H: Array, theta: Array, sizes: Array) -> SampleStep:
        """Return Newton's step from each row of H, whose unknowns have the given sizes."""

    def without_samples(self, kept: Array, H: Array) -> Model:
        """Return the model in which samples that are not kept stay at their rows of H."""


class SampleStep(Protocol):
    """Newton's steps of all samples, with NaN in samples without a value or a derivative.

    Attributes
    ----------
    R, terms, wide, D : (samples, n) arrays
        The residuals, the sizes |A| s of the terms of each equation, those with max(s, |D|) in
        place of s, and the corrections D = A^-1 R.
    """

    R: Array
    terms: Array
    wide: Array
    D: Array

    def solve(self, b: Array) -> Array:
        """Return A^-1 b for (samples, n, k) arrays, not finite where A is singular."""


def block_step(
    backend: Backend, R: Array, J: Array, sizes: Array, identity_minus: bool
) -> SampleStep:
    """Return Newton's steps for A = J or I - J, from (samples, n, n) Jacobians."""
    if dense_blocks.loops_pay(J, *R.shape):
        return dense_blocks.CompiledStep(R, J, sizes, identity_minus)
    size = R.shape[1]
    return BlockStep(backend, R, backend.eye(size, size) - J if identity_minus else J, sizes)


class BlockStep:
    """Newton's steps from the Jacobians of the samples, by the functions of their library.

    Parameters
    ----------
    backend : Backend
    R : (samples, n) array
    A : (samples, n, n) array
    sizes : (samples, n) array
    """

    def __init__(self, backend: Backend, R: Array, A: Array, sizes: Array) -> None:
        self.backend, self.R, self.A = backend, R, A
        xp = backend.xp
        self.D = self.solve(R[:, :, None])[:, :, 0]
        both = xp.abs(A) @ xp.stack([sizes, xp.maximum(sizes, xp.abs(self.D))], axis=2)
        self.terms, self.wide = both[:, :, 0], both[:, :, 1]

    def solve(self, b: Array) -> Array:
        """Return A^-1 b, which is NaN in samples with a singular A."""
        xp = self.backend.xp
        regular = xp.isfinite(xp.sum(self.A, axis=(1, 2))) & xp.isfinite(xp.sum(b, axis=(1, 2)))
        try:
            if bool(xp.all(regular)):
                return xp.linalg.solve(self.A, b)
        except host.linalg.LinAlgError:
            for i in singular_blocks(self.A):
                regular[i] = False
        X = xp.full_like(b, float("nan"))
        if self.backend.any(regular):
            try:
                X[regular] = xp.linalg.solve(self.A[regular], b[regular])
            except host.linalg.LinAlgError:  # a singular block beside others that are not finite
                numbers = host.nonzero(array_on_host(regular))[0]
                for i in numbers[singular_blocks(self.A[regular])]:
                    regular[int(i)] = False
                X[regular] = xp.linalg.solve(self.A[regular], b[regular])
        return X


class ChordStep:
    """Steps with the derivatives of an earlier state."""

    def __init__(self, R: Array, before: SampleStep) -> None:
        self.R, self.solve = R, before.solve
        self.terms = self.wide = before.terms
        self.D = before.solve(R[:, :, None])[:, :, 0]


class SampleEvaluations:
    """The evaluations of a batch at states (samples, n), which are counted.

    Parameters
    ----------
    problem : Problem
        Its model is a `BatchModel`.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.backend = problem, problem.backend
        model: Any = problem.model  # a `BatchModel`
        self.model = model
        self.shape = (model.samples, model.sample_size)

    def rows(self, h: Array) -> Array:
        """Return an (N,) vector as (samples, n)."""
        return self.backend.xp.reshape(h, self.shape)

    def flat(self, H: Array) -> Array:
        """Return states of samples as an (N,) vector."""
        return self.backend.xp.reshape(H, (-1,))

    def residuals(self, H: Array) -> Array:
        """Return R, with NaN in samples without a value."""
        self.problem.evaluations += 1
        with self.backend.ignore_overflow():
            values = self.model.sample_values(H, self.problem.theta)
            return H - values if self.problem.is_map else values

    def newton_step(self, H: Array, sizes: Array) -> SampleStep:
        """Return Newton's steps from H, with derivatives there."""
        self.problem.evaluations += 1
        with self.backend.ignore_overflow():
            return self.model.sample_step(H, self.problem.theta, sizes)

    def defined(self, step: SampleStep) -> Array:
        """Return in which samples the residual and its derivative are finite."""
        xp = self.backend.xp
        return xp.isfinite(xp.sum(step.R, axis=1) + xp.sum(step.terms, axis=1))

    def limited(self, H: Array, trial: Array) -> Array:
        """Return trial states within the limits of the model."""
        return self.rows(self.problem.limited(self.flat(H), self.flat(trial)))

"""The equilibria of all samples of a batch, as one equilibrium."""

from __future__ import annotations

import math
from typing import Any

from ..arrays.backend import Array, array_on_host, host
from ..arrays.dense_blocks import iterate_powers
from ..equilibrium.conditioning import digits_left
from ..equilibrium.equilibrium import Equilibrium
from ..equilibrium.null_vectors import NullVectors
from ..equilibrium.reduced_hessian import ReducedHessian
from ..equilibrium.singularity import describe
from ..equilibrium.smallest_singular import SmallestSingular
from ..equilibrium.uniqueness import Examined, examine_singularity
from ..errors import SingularStateError
from ..linear.block_diagonal import BlockDiagonal, BlockDiagonalFactor
from ..linear.scaling import Scaling
from ..locks import cached_property
from ..models.losses import LossBase
from ..report import SampleReports

POWER_STEPS = 3  # of the iteration for the smallest singular value of each block


class BatchedEquilibrium(Equilibrium):
    """The equilibria of the samples of a batch, which share their parameters.

    `mfdeq.solve` returns it for models with ``batched=True``. It is used like any `Equilibrium`,
    with a state of N = samples · n unknowns.

    Parameters
    ----------
    problem : Problem
        The batch and its parameters.
    state : (N,) array
    linearized : CheckedLinearization
    solver : Reused
    report : SolveReport
        As in `Equilibrium`. Its `samples` say how the solve for each sample went.
    error_estimates : bool, optional
        As in `Equilibrium`.

    Notes
    -----
    With ``on_failure="mask"`` samples without an equilibrium have no weight: they are rows of NaN
    in `samples`, stay at their start in `state`, and neither losses nor sensitivities depend on
    them.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> def f(h, theta, x):
    ...     return theta[0] * np.tanh(h) + x
    >>> x = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    >>> model = mfdeq.from_function(f, 2, 1, "map", args=x, batched=True)
    >>> eq = mfdeq.solve(model, np.array([0.5]))
    >>> print(eq.samples.round(3))
    [[0.197 0.382]
     [0.55  0.703]
     [0.844 0.976]]
    """

    @property
    def samples(self) -> Array:
        """The states of the samples, (samples, n); NaN where there is no equilibrium."""
        model: Any = self.model
        xp = self.backend.xp
        H = xp.reshape(self.state, (model.samples, model.sample_size))
        if model.kept is None:
            return H
        return xp.where(model.kept[:, None], H, xp.full_like(H, math.nan))

    # Losses, without samples that have no equilibrium.

    def restricted(self, loss: LossBase) -> LossBase:
        """Return a loss without what it has of samples that have no equilibrium.

        Parameters
        ----------
        loss : Loss

        Returns
        -------
        Loss
            The loss itself, if all samples have one.

        Raises
        ------
        ArgumentError
            If the loss is none whose parts belong to samples.
        """
        model: Any = self.model
        return loss if model.kept is None else self._restricted_loss(loss)

    def _restricted_loss(self, loss: LossBase) -> LossBase:
        known = self.__dict__.setdefault("_restricted", {})
        if loss in known.values():
            return loss
        if loss not in known:
            known[loss] = loss.without_unknowns(self.unknowns_kept)
        return known[loss]

    @cached_property
    def unknowns_kept(self) -> Any:
        """Whether each unknown belongs to a sample with an equilibrium, (N,), on the host."""
        model: Any = self.model
        kept = host.ones(model.samples, dtype=bool) if model.kept is None else model.kept
        return host.repeat(array_on_host(kept), model.sample_size)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_restricted", None)
        return state

    def value(self, loss: LossBase) -> float:
        """Evaluate a loss of the samples that have an equilibrium."""
        return super().value(self.restricted(loss))

    def loss_gradients(self, loss: LossBase) -> tuple[Array, Array]:
        """Evaluate the partial derivatives of a loss of the samples that have an equilibrium."""
        return super().loss_gradients(self.restricted(loss))

    def adjoint(self, loss: LossBase) -> Array:
        """Solve for the adjoint of a loss, which is zero in samples without an equilibrium."""
        return super().adjoint(self.restricted(loss))

    def gradient(self, loss: LossBase, *, rtol: float | None = None) -> Array:
        """Compute the gradient of a loss; see `Equilibrium.gradient`."""
        return super().gradient(self.restricted(loss), rtol=rtol)

    def gradient_with_error(
        self, loss: LossBase, *, rtol: float | None = None
    ) -> tuple[Array, Array]:
        """Compute the gradient and its error; see `Equilibrium.gradient_with_error`."""
        return super().gradient_with_error(self.restricted(loss), rtol=rtol)

    def unevaluated_hessian(self, loss: LossBase) -> ReducedHessian:
        """Return the Hessian of a loss without its curvatures; see `Equilibrium.hessian`."""
        return super().unevaluated_hessian(self.restricted(loss))

    def knows_adjoint(self, loss: LossBase) -> bool:
        """Return whether the adjoint of a loss has been computed."""
        return super().knows_adjoint(self.restricted(loss))

    def keep_adjoint(self, loss: LossBase, adjoint: Array) -> None:
        """Keep the adjoint of a loss, which was solved for together with others."""
        super().keep_adjoint(self.restricted(loss), adjoint)

    # How the solve went, and how singular the blocks are.

    def check_state(self) -> None:
        """Complete the reports of samples, if a method has solved for all of them together."""
        if self.report.samples is not None:
            return
        model: Any = self.model
        samples, xp = model.samples, self.backend.xp
        size, terms = (
            xp.abs(self.problem.residual(self.state)),
            self.linearized.A.abs_apply(self.state),
        )
        ratios = size / xp.where(terms > 0.0, terms, xp.ones_like(terms))
        worst = xp.max(xp.reshape(ratios, (samples, model.sample_size)), axis=1)
        self.report.samples = SampleReports(
            host.ones(samples, dtype=bool),
            host.full(samples, self.report.iterations),
            array_on_host(worst),
        )

    def judge_uniqueness(self) -> None:
        """Judge whether the equilibria are unique, where the solve has left a doubt."""
        if self.report.uniqueness != "judged":
            examine_singularity(self)

    @cached_property
    def examined(self) -> Examined:
        """The factor of A with what is known about the singularity of its blocks."""
        A, report, problem = self.linearized.A, self.report, self.problem
        if not isinstance(A, BlockDiagonal):  # of a class that derives from a batch
            return super().examined
        try:
            factor = self.solver.setup_for_equilibrium(A, report.linear)
            report.record_solver(factor.name, self.solver.choices)
            scaling = factor.working.scaling
            smallest = _smallest_singular(factor.working)
            if scaling.rows is None:
                report.smallest_singular = smallest.value
            report.digits_left = digits_left(
                factor, smallest, self.linearized, self.state, problem, scaling
            )
        except SingularStateError as error:
            right = error.right
            left = error.left
            if right is None or left is None:
                error.best, error.report = self.state, report
                raise
            null = NullVectors(A, Scaling(), right, left)
            singularity = describe(problem, self.state, self.linearized, null, digits=error.digits)
            report.digits_left, report.uniqueness = error.digits, f"no: {singularity.kind}"
            report.smallest_singular = 0.0
            return Examined(None, SmallestSingular(0.0, left, right), False, singularity)
        report.uniqueness = "judged"
        return Examined(factor, smallest, scaling.rows is not None, None)


def _smallest_singular(factor: Any) -> SmallestSingular:
    """Return the smallest singular value of the blocks, relative to the norm of its block."""
    assert isinstance(factor, BlockDiagonalFactor)
    backend, xp = factor.backend, factor.backend.xp
    inverses, scaling = factor.inverses, factor.scaling
    count, size, _ = inverses.shape
    start = xp.reshape(backend.random(count * size, seed=11), (count, size))
    *both, lengths = iterate_powers(xp, inverses, start, POWER_STEPS)
    u, v = (xp.reshape(x, (-1,)) for x in both)
    i = int(xp.argmax(lengths))
    vectors = []
    for x, back in ((u, scaling.multiply_rows), (v, scaling.multiply_columns)):
        inside = xp.zeros_like(x)
        inside[i * size : (i + 1) * size] = x[i * size : (i + 1) * size]
        vectors.append(back(inside))
    norms = [backend.norm(x) for x in vectors]
    value = 1.0 / (float(lengths[i]) * norms[0] * norms[1])
    return SmallestSingular(value, vectors[0] / norms[0], vectors[1] / norms[1])

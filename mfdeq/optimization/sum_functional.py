"""`mfdeq.SumFunctional`: the weighted sum of functionals of one theta, many experiments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from typing import Any

from ..arguments import fraction, one_of
from ..arrays.backend import Array, Backend
from ..equilibrium.sum_hessian import SumHessian
from ..locks import lock_of, state_to_pickle
from ..models.linear_combinations import LinearCombinations
from ..models.losses import LossBase
from ..models.vectors import flatten_params
from .experiments import Experiments, SumEquilibrium
from .functional import ON_FAILURE_VALUES, Functional, copy_of
from .remote_experiments import RemoteExperiments, crosses_processes
from .sum_arguments import (
    check_param_sizes,
    checked_executor,
    checked_functionals,
    checked_weights,
    drawn,
    prior_for,
    total_size,
    without_sums,
)


class Summable(LinearCombinations, Functional):
    """Base class of functionals that can be added, multiplied and divided by real numbers.

    An `mfdeq.QuadraticPrior` can be added, too.
    """

    names: Sequence[str] = ("",)  # of the summands, for errors
    executor: futures.Executor | None = None
    prior: LossBase | None = None  # which is added to the summands, and counts once

    @property
    def summands(self) -> tuple[tuple[float, Functional], ...]:
        """The factors and functionals, none of them a sum, of which it is the sum."""
        return ((1.0, self),)

    def __add__(self, other: Any) -> SumFunctional:
        if isinstance(other, LossBase):
            return SumFunctional([self], prior=other)
        if not isinstance(other, Summable):
            return NotImplemented
        return SumFunctional([self, other])

    def __radd__(self, other: Any) -> Any:
        return self + other if isinstance(other, LossBase) else super().__radd__(other)

    def _times(self, factor: float) -> SumFunctional:
        return SumFunctional([self], [factor])


class SumFunctional(Summable):
    """The weighted sum of functionals of one theta: many experiments.

    The models may be of any kinds and sizes; only P must be the same. The sum is used like a
    `ReducedFunctional`: by `minimize`, `eigsh`, `LowRank` and the optimizers of scipy. Sums and
    multiples of functionals, ``F1 + 0.5 * F2`` and ``sum([F1, F2])``, are instances of this class.

    Parameters
    ----------
    functionals : sequence of ReducedFunctional or SumFunctional
        The experiments. Each keeps its own equilibrium and start; sums are split into their parts.
    weights : sequence of float, optional
        The factors of the functionals; by default ones.
    executor : concurrent.futures.Executor, optional
        Where the experiments are solved: threads, processes, dask's ``client.get_executor()`` or
        those of `mpi4py.futures`; by default this thread. Each worker of an executor of processes
        holds a share of the experiments, with their states and factors.
    prior : QuadraticPrior, optional
        A prior, or a linear combination of priors, which counts once. A prior in the loss of an
        experiment counts once for each experiment that has it.
    names : sequence of str, optional
        The names of the experiments, for errors.
    on_failure : {"raise", "inf"}, optional
        As in `ReducedFunctional`; by default "inf" if all functionals have that.
    accuracy : float, optional
        The allowed relative error of products with the Hessian, as estimated.

    Attributes
    ----------
    functionals : list of ReducedFunctional
        The experiments.
    weights : list of float

    Raises
    ------
    ArgumentError
        If there are no functionals, their parameters are of different sizes, or there is not one
        weight, a finite number, for each.

    Notes
    -----
    F(theta) = sum_e w_e L_e(h_e(theta), theta) + prior(theta). Gradients and Hessians are the sums
    of those of the experiments.

    Experiments whose A is the same matrix, which is found by its entries, share one factor. Their
    right-hand sides are solved as one block: for the states if the models are linear in them, for
    the adjoints, and twice for a product with the Hessian.

    Where an experiment has no equilibrium, the error names it by its index and name. The results of
    the others are kept.

    Examples
    --------
    Two experiments with one parameter, of one and two unknowns:

    >>> import numpy as np
    >>> import mfdeq
    >>> cosine = mfdeq.from_function(lambda h, theta: np.cos(h) + theta, 1, 1, kind="map")
    >>> cubic = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 1, kind="residual")
    >>> loss = mfdeq.LeastSquares(np.array([0]), np.array([1.0]))
    >>> F = mfdeq.SumFunctional(
    ...     [mfdeq.ReducedFunctional(cosine, loss), mfdeq.ReducedFunctional(cubic, loss)],
    ...     weights=[1.0, 0.5],
    ... )
    >>> theta = np.array([0.5])
    >>> F.values(theta).round(4), round(F.value(theta), 4)
    (array([0.0002, 0.166 ]), 0.0832)
    >>> bool(np.allclose(F.hessp(theta, np.ones(1)), F.hessian(theta).toarray()[:, 0]))
    True
    >>> mfdeq.minimize(F, theta).converged
    True
    """

    def __init__(
        self,
        functionals: Sequence[Functional],
        weights: Sequence[float] | None = None,
        executor: futures.Executor | None = None,
        *,
        prior: LossBase | None = None,
        names: Sequence[str] | None = None,
        on_failure: str | None = None,
        accuracy: float | None = None,
    ) -> None:
        given = checked_functionals(functionals, Summable)
        factors = checked_weights(weights, len(given))
        self.functionals, self.weights, self.names, self.prior = without_sums(
            given, factors, names, prior
        )
        check_param_sizes(self.functionals)
        self.prior = prior_for(self.functionals[0].model, self.prior)
        if on_failure is None:
            on_failure = "inf" if all(F.on_failure == "inf" for F in given) else "raise"
        one_of(on_failure, ON_FAILURE_VALUES, "on_failure")
        self.on_failure = on_failure
        self.accuracy = None if accuracy is None else fraction(accuracy, "accuracy")
        if executor is None:
            executor = next((F.executor for F in given if F.executor is not None), None)
        self.executor = checked_executor(executor)
        self.model = self.functionals[0].model
        self.experiments: Any = Experiments(self.functionals, self.names, self._map)
        if self.executor is not None and crosses_processes(self.executor):
            self.experiments = RemoteExperiments(self._share, len(self), self.executor)
        self._hessian: tuple[Any, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the executor, and Hessians, whose factors cannot be pickled."""
        dropped = ("executor", "_hessian", "_inexact_hessian")
        local = Experiments(self.functionals, self.names)
        return {**state_to_pickle(self), **dict.fromkeys(dropped), "experiments": local}

    def _share(self, first: int, last: int) -> SumFunctional:
        """Return the sum of some of the experiments, for another process."""
        share = SumFunctional(
            self.functionals[first:last], self.weights[first:last], names=self.names[first:last]
        )
        share.experiments.first = first
        return share

    def _map(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterable[Any]:
        return map(function, items) if self.executor is None else self.executor.map(function, items)

    @property
    def summands(self) -> tuple[tuple[float, Functional], ...]:
        """The weights and the experiments."""
        return tuple(zip(self.weights, self.functionals, strict=True))

    def __len__(self) -> int:
        return len(self.functionals)

    def __repr__(self) -> str:
        P = self.functionals[0].model.param_size
        return f"<SumFunctional of {len(self)} experiments, P = {P}>"

    # Values.

    def equilibrium(self, theta: Array) -> SumEquilibrium:
        """Solve for the equilibria of all experiments at theta, unless they are known.

        Parameters
        ----------
        theta : (P,) array

        Returns
        -------
        SumEquilibrium
            With the equilibria as `parts`, and their states one after another as `state`.

        Raises
        ------
        ConvergenceError, SingularStateError
            If an experiment has no equilibrium, which the message names, also if `on_failure` is
            "inf".
        """
        with lock_of(self):
            return self.experiments.at(copy_of(flatten_params(self.model, theta)))

    def values(self, theta: Array) -> Array:
        """Evaluate the losses of all experiments, without weights and prior.

        Parameters
        ----------
        theta : (P,) array

        Returns
        -------
        (E,) array
            Their losses. If `on_failure` is "inf", those that cannot be evaluated are inf.
        """
        theta = copy_of(flatten_params(self.model, theta))
        with lock_of(self):
            values = self.experiments.values(theta, self.on_failure == "inf")
        backend = Backend.of(theta)
        return backend.xp.asarray(values, dtype=backend.dtype, device=backend.device)

    def evaluate(self, theta: Array) -> float:
        """Evaluate the sum like `value`, but raise every error, whatever `on_failure` is."""
        theta = copy_of(flatten_params(self.model, theta))
        with lock_of(self):
            values = self.experiments.values(theta, False)
        return self._weighted_sum(values, theta)

    def evaluate_gradient(self, theta: Array) -> Array:
        """Compute the gradient like `gradient`, but raise every error."""
        with lock_of(self):
            eq = self.equilibrium(theta)
            gradient = self.experiments.gradient(eq, self.weights)
        return gradient + self._prior_gradient(eq.params)

    def hessian(self, theta: Array) -> SumHessian:
        """Return the exact Hessian at theta, (P, P), as one operator.

        Parameters
        ----------
        theta : (P,) array

        Returns
        -------
        SumHessian

        Raises
        ------
        ConvergenceError, SingularStateError
            If an experiment has no equilibrium, also if `on_failure` is "inf".
        """
        with lock_of(self):
            eq = self.equilibrium(theta)
            if self._hessian is None or self._hessian[0] is not eq:
                self._inexact_hessian = None
                self._hessian = eq, self.hessian_at(eq)
            return self._hessian[1]

    def hessian_at(self, eq: SumEquilibrium, evaluate: bool = True) -> SumHessian:
        """Return the Hessian at an equilibrium of `equilibrium`, with or without curvatures."""
        prior = None
        if self.prior is not None:
            one = eq.backend.zeros(1)  # a state, on which the prior does not depend
            prior = self.prior.curvature_operator(one, eq.params).params_params
        return self.experiments.hessian(eq, self.weights, prior, evaluate)

    def value_at(self, eq: SumEquilibrium) -> float:
        """Return the value at an equilibrium of `equilibrium`."""
        return self._weighted_sum(self.experiments.values_at(eq), eq.params)

    def partial_gradient(self, eq: SumEquilibrium) -> Array:
        """Return the derivative in theta with all states held fixed, (P,)."""
        partial = self.experiments.partial_gradient(eq, self.weights)
        return partial + self._prior_gradient(eq.params)

    def gradient_at(self, theta: Array, state: Array) -> Array:
        """Compute the gradient with states, one after another, in place of the equilibria."""
        gradient = self.experiments.gradient_at(theta, state, self.weights)
        return gradient + self._prior_gradient(theta)

    def _weighted_sum(self, values: Sequence[float], theta: Array) -> float:
        total = math.fsum(w * value for w, value in zip(self.weights, values, strict=True))
        if self.prior is None:
            return total
        return total + self.prior.value(Backend.of(theta).zeros(1), theta)

    def _prior_gradient(self, theta: Array) -> Array:
        backend = Backend.of(theta)
        if self.prior is None:
            return backend.zeros(theta.shape[0])
        return self.prior.gradients(backend.zeros(1), theta)[0]

    def sample(self, rng: Any, count: int) -> SumFunctional:
        """Return the sum of a random subset of the experiments, which is unbiased.

        Parameters
        ----------
        rng : numpy.random.Generator or int
            The source of randomness, or a seed.
        count : int
            The number of experiments, drawn without replacement.

        Returns
        -------
        SumFunctional
            The sum of the experiments drawn, each with its weight times E / count. Its value,
            gradient and Hessian have those of the whole sum as their expectations. The prior
            counts as in the sum.

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: np.cos(h) + theta, 1, 1, kind="map")
        >>> data = np.linspace(0.5, 1.5, 6)
        >>> F = mfdeq.SumFunctional(
        ...     [mfdeq.ReducedFunctional(model, mfdeq.LeastSquares([0], [d])) for d in data]
        ... )
        >>> part = F.sample(np.random.default_rng(0), 2)
        >>> len(part), part.weights
        (2, [3.0, 3.0])
        """
        chosen, factor = drawn(rng, count, len(self))
        return SumFunctional(
            [self.functionals[i] for i in chosen],
            [factor * self.weights[i] for i in chosen],
            self.executor,
            prior=self.prior,
            names=[self.names[i] for i in chosen],
            on_failure=self.on_failure,
            accuracy=self.accuracy,
        )

    # For minimizations.

    def state_rtol(self, backend: Backend) -> float:
        """Return the largest relative tolerance of the states."""
        return max(F.state_rtol(backend) for F in self.functionals)

    def forget(self, start: Array) -> None:
        """Drop everything but starts, one after another, for the next solves."""
        with lock_of(self):
            self._hessian = self._inexact_hessian = None
            self.experiments.forget(start)

    @property
    def solves(self) -> int:
        """The number of forward solves of all experiments so far, including failed ones."""
        return self.experiments.solves

    @property
    def linear_solves(self) -> int:
        """The number of linear solves so far; each right-hand side counts as one."""
        return self.experiments.linear_solves

    def add_counts(self, equilibria: int, linear_solves: int) -> None:
        """Add the counts of an earlier process when its run is resumed."""
        self.experiments.add_counts(equilibria, linear_solves)

    @property
    def name(self) -> str:
        """The names of the models, each once."""
        names = list(dict.fromkeys(F.name for F in self.functionals))
        return f"{len(self)} experiments: {', '.join(names)}"

    @property
    def sizes(self) -> tuple[Any, Any]:
        """The number of unknowns of all experiments, and P."""
        states = sum(total_size(F.sizes[0]) for F in self.functionals)
        return states, self.functionals[0].sizes[1]

    @property
    def priors(self) -> Sequence[tuple[float, LossBase]]:
        """The factors and terms of all losses, among them the priors."""
        terms = [] if self.prior is None else [*self.prior.weighted_terms]
        for weight, F in self.summands:
            terms += [(weight * factor, term) for factor, term in F.priors]
        return terms

"""Sums of functionals whose experiments are held by groups of ranks.

The parameters are a numpy array that all ranks have. Each group has a communicator of its own,
on which the vectors and matrices of its experiments are distributed. What a group computes is
exchanged between all ranks, each of which adds up the results of all groups in the same order.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Sequence
from typing import Any

from ..arguments import count as positive_count
from ..arguments import one_of
from ..arrays.backend import host
from ..errors import ArgumentError
from ..models.losses import LossBase
from ..optimization.functional import ON_FAILURE_VALUES
from ..optimization.sum_arguments import checked_prior, checked_weights, drawn, total_size
from ..optimization.sum_functional import SumFunctional
from ..optimization.workers import portable_error
from .group_experiments import GroupContents, GroupExperiments
from .ranks import Ranks


class Groups:
    """The ranks of a communicator, split into groups, each of which holds experiments of a sum.

    Parameters
    ----------
    comm : petsc4py.PETSc.Comm
        All ranks.
    count : int
        The number of groups, at most that of the ranks.

    Attributes
    ----------
    comm : petsc4py.PETSc.Comm
        The ranks of the group of this rank, for its Vecs and Mats.
    count : int
    index : int
        The group of this rank.

    Raises
    ------
    ArgumentError
        If there are fewer ranks than groups.

    Examples
    --------
    Two experiments, which on two ranks or more are solved at the same time:

    >>> import mfdeq, numpy as np
    >>> from mfdeq import petsc
    >>> from petsc4py import PETSc
    >>> groups = petsc.Groups(PETSc.COMM_WORLD, min(2, PETSc.COMM_WORLD.getSize()))
    >>> def experiment(i):
    ...     model = petsc.distributed(
    ...         mfdeq.from_function(lambda h, theta: h**3 + h - theta - i, 3, 3, "residual"),
    ...         groups.comm,
    ...     )
    ...     loss = model.loss(mfdeq.LeastSquares(np.arange(3), np.zeros(3)))
    ...     return mfdeq.ReducedFunctional(model, loss)
    >>> F = groups.sum(experiment, 2)
    >>> theta = np.array([0.0, 2.0, 10.0])
    >>> F.values(theta).round(3)
    array([2.5 , 3.12])
    >>> F.gradient(theta).round(4) + 0.0
    array([0.2847, 0.474 , 0.303 ])
    """

    def __init__(self, comm: Any, count: int) -> None:
        from petsc4py import PETSc

        self._all = comm.tompi4py()
        rank, size = self._all.Get_rank(), self._all.Get_size()
        self.count = positive_count(count, "count")
        if count > size:
            raise ArgumentError(
                f"count: expected at most {size} groups, the number of ranks, got {count}"
            )
        self.index = rank * count // size
        self._own = self._all.Split(self.index, rank)
        self.comm, self.ranks = PETSc.Comm(self._own), Ranks.of(comm)

    def share(self, size: int) -> range:
        """Return the indices of the experiments of this rank's group, of so many in all."""
        return range(size * self.index // self.count, size * (self.index + 1) // self.count)

    def sum(
        self,
        experiment: Callable[[int], Any],
        size: int,
        weights: Sequence[float] | None = None,
        *,
        prior: LossBase | None = None,
        names: Sequence[str] | None = None,
        on_failure: str = "raise",
        accuracy: float | None = None,
        distributed: bool = True,
    ) -> GroupedSum:
        """Create the sum of many experiments; a collective call of all ranks.

        Parameters
        ----------
        experiment : callable
            ``experiment(i)`` returns the `ReducedFunctional` of experiment i. It is called on the
            ranks of the group that holds it, and makes its Vecs and Mats on ``groups.comm``.
        size : int
            The number of experiments, at least that of the groups.
        weights, prior, names, on_failure, accuracy : optional
            As in `SumFunctional`. The prior is one for numpy arrays.
        distributed : bool, optional
            Whether the models take Vecs, as everywhere under PETSc. With False they are models of
            numpy arrays, each of which is evaluated by every rank of its group.

        Returns
        -------
        GroupedSum

        Raises
        ------
        ArgumentError
            If there are fewer experiments than groups, or as in `SumFunctional`.
        Exception
            What `experiment` raises on some ranks is raised on all.
        """
        if positive_count(size, "size") < self.count:
            raise ArgumentError(
                f"size: expected an experiment for each of {self.count} groups, got {size}"
            )
        given = checked_weights(weights, size)
        labels = [""] * size if names is None else list(map(str, names))
        if len(labels) != size:
            raise ArgumentError(f"names: expected {size} names, got {len(labels)}")
        one_of(on_failure, ON_FAILURE_VALUES, "on_failure")
        mine = self.share(size)

        share: Any = None
        outcome: Any = None
        try:
            share = SumFunctional(
                [experiment(i) for i in mine],
                [given[i] for i in mine],
                names=[labels[i] for i in mine],
            )
            outcome = total_size(share.functionals[0].model.param_size), GroupContents.of(share)
        except Exception as error:
            outcome = portable_error(error)
        found = self.exchange(outcome)
        raise_first(found)
        P = found[0][0]
        for index, (other, _) in enumerate(found):
            if other != P:
                raise ArgumentError(
                    f"experiments: expected one number of parameters for all, got {P} in group 0 "
                    f"and {other} in group {index}"
                )
        contents = [of_group for _, of_group in found]
        experiments = GroupExperiments(self, share, labels, contents, distributed)
        return GroupedSum(experiments, P, given, prior, on_failure, accuracy)

    def exchange(self, result: Any) -> list[Any]:
        """Return the results of all groups, on all ranks; an error of a rank is that of its group.

        Parameters
        ----------
        result : object
            The same on all ranks of a group, or an exception on some.
        """
        everywhere = self._all.allgather(
            (self.index, result if self._leads or isinstance(result, Exception) else None)
        )
        results: list[Any] = [None] * self.count
        for index, found in everywhere:
            if isinstance(found, Exception) or results[index] is None:
                results[index] = found
        return results

    @property
    def _leads(self) -> bool:
        return self._own.Get_rank() == 0

    def check_equal(self, name: str, x: Any) -> None:
        """Raise an `ArgumentError` on all ranks unless they all hold the same."""
        digest = hashlib.blake2b(pickle.dumps((name, x)), digest_size=16).digest()
        if len({*self._all.allgather(digest)}) > 1:
            raise ArgumentError(
                f"{name} of a sum over groups of ranks: expected the same numbers on every rank. "
                "Make them on one rank and send them to the others: comm.tompi4py().bcast(x)"
            )


def raise_first(results: Sequence[Any]) -> None:
    """Raise the first exception among some results."""
    for result in results:
        if isinstance(result, Exception):
            raise result


def _sum_of_priors(first: Any, second: Any) -> Any:
    """Return the sum of two priors, each of which may be None."""
    return first if second is None else second if first is None else first + second


class SharedParams:
    """The form of the parameters of a sum over groups: an array that every rank has."""

    def __init__(self, size: int) -> None:
        self.param_size = size


class GroupedSum(SumFunctional):
    """A sum whose experiments are held by groups of ranks; `Groups.sum` makes it.

    It is used like a `SumFunctional`, with numpy arrays as parameters, which are the same on every
    rank. All ranks call its methods together. Sums over the same `Groups` can be added: the
    experiments of ``F1 + F2`` are in the order of the groups, in each those of F1 first, and so are
    its weights and values.

    Attributes
    ----------
    groups : Groups
    weights : list of float
        Those of all experiments.
    functionals : list of ReducedFunctional
        The experiments of this rank's group.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> from mfdeq import petsc
    >>> from petsc4py import PETSc
    >>> groups = petsc.Groups(PETSc.COMM_WORLD, 1)
    >>> def experiment(i):
    ...     equation = mfdeq.from_function(lambda h, p: h**3 + h - p - i, 3, 3, "residual")
    ...     model = petsc.distributed(equation, groups.comm)
    ...     loss = model.loss(mfdeq.LeastSquares(np.arange(3), np.zeros(3)))
    ...     return mfdeq.ReducedFunctional(model, loss)
    >>> F = groups.sum(experiment, 2, weights=[1.0, 3.0])
    >>> len(F), F.weights
    (2, [1.0, 3.0])
    """

    def __init__(
        self,
        experiments: GroupExperiments,
        param_size: int,
        weights: list[float],
        prior: LossBase | None,
        on_failure: str,
        accuracy: float | None,
    ) -> None:
        self.experiments, self.weights, self.names = experiments, weights, experiments.names
        self.groups, share = experiments.groups, experiments.share
        self.functionals = [] if share is None else share.functionals
        self.on_failure, self.accuracy, self.executor = on_failure, accuracy, None
        self.model, self.processes = SharedParams(param_size), self.groups.ranks
        self.prior = None if prior is None else checked_prior(prior)
        self._hessian = None

    def __len__(self) -> int:
        return len(self.weights)

    def __repr__(self) -> str:
        return (
            f"<GroupedSum of {len(self)} experiments in {self.groups.count} groups of ranks, "
            f"P = {self.model.param_size}>"
        )

    @property
    def summands(self) -> Any:
        """Raise an `ArgumentError`: the parts are on other ranks."""
        raise ArgumentError(
            "expected functionals of this process, got a sum over groups of ranks, which can be "
            "added to sums over the same Groups alone: add those with +, or give all experiments "
            "and their weights to one Groups.sum"
        )

    def __add__(self, other: Any) -> Any:
        if isinstance(other, LossBase):
            return self._with(self.weights, _sum_of_priors(self.prior, other))
        if isinstance(other, GroupedSum) and other.groups is self.groups:
            return self._joined(other)
        return super().__add__(other)

    def _joined(self, other: GroupedSum) -> GroupedSum:
        """Return the sum with another one, whose experiments stay with their groups."""
        both = (self, other)
        for what, found in (
            ("P", [F.model.param_size for F in both]),
            ("distributed", [F.experiments.distributed for F in both]),
        ):
            if found[0] != found[1]:
                raise ArgumentError(
                    f"sum over groups of ranks: expected two sums of one {what}, got {found[0]} "
                    f"and {found[1]}"
                )
        placed = [
            [(F, i) for F in both for i in range(*F.experiments.bounds[index])]
            for index in range(self.groups.count)
        ]
        functionals, share = self.functionals + other.functionals, None
        if functionals:
            names = [F.names[i] for F, i in placed[self.groups.index]]
            share = SumFunctional(functionals, names=names)
        contents = self.groups.exchange(GroupContents.of(share))
        order = [pair for group in placed for pair in group]
        names, distributed = [F.names[i] for F, i in order], self.experiments.distributed
        tolerances = [F.accuracy for F in both if F.accuracy is not None]
        return GroupedSum(
            GroupExperiments(self.groups, share, names, contents, distributed),
            self.model.param_size,
            [F.weights[i] for F, i in order],
            _sum_of_priors(self.prior, other.prior),
            "inf" if all(F.on_failure == "inf" for F in both) else "raise",
            min(tolerances) if len(tolerances) == 2 else None,
        )

    def _times(self, factor: float) -> Any:
        prior = None if self.prior is None else factor * self.prior
        return self._with([factor * weight for weight in self.weights], prior)

    def _with(
        self,
        weights: list[float],
        prior: LossBase | None,
        experiments: GroupExperiments | None = None,
    ) -> GroupedSum:
        """Return the sum with other weights and another prior, of these or of other experiments."""
        if experiments is None:
            of = self.experiments
            experiments = GroupExperiments(
                self.groups, of.share, of.names, of.contents, of.distributed
            )
        P = self.model.param_size
        return GroupedSum(experiments, P, weights, prior, self.on_failure, self.accuracy)

    def sample(self, rng: Any, count: int) -> GroupedSum:
        """Return the sum of a random subset of the experiments, which is unbiased.

        Parameters
        ----------
        rng : numpy.random.Generator or int
            As in `SumFunctional.sample`. The first rank draws for all.
        count : int

        Returns
        -------
        GroupedSum
            Of the experiments drawn, each held by the group that has it. Groups with fewer of them
            wait for the others.
        """
        chosen, factor = drawn(rng, count, len(self))
        chosen = self.groups.exchange(chosen)[0]
        first, last = self.experiments.bounds[self.groups.index]
        mine, share = [i for i in chosen if first <= i < last], None
        if mine:
            share = SumFunctional(
                [self.functionals[i - first] for i in mine],
                names=[self.names[i] for i in mine],
            )
        contents = self.groups.exchange(GroupContents.of(share))
        names = [self.names[i] for i in chosen]
        of = GroupExperiments(self.groups, share, names, contents, self.experiments.distributed)
        return self._with([factor * self.weights[i] for i in chosen], self.prior, of)

    def state_rtol(self, backend: Any) -> float:
        """Return the largest relative tolerance of the states."""
        dtype = host.dtype(backend.dtype).name
        return max(group.state_rtols[dtype] for group in self.experiments.contents)

    @property
    def name(self) -> str:
        """The number of the experiments, and the names of the models of the first group."""
        models = next(group.models for group in self.experiments.contents if group.models)
        return f"{len(self)} experiments in {self.groups.count} groups: {models}"

    @property
    def sizes(self) -> tuple[Any, Any]:
        """The number of unknowns of all experiments, and P."""
        states = sum(group.unknowns for group in self.experiments.contents)
        return states, self.model.param_size

    @property
    def priors(self) -> Any:
        """The factors and terms of the prior of the sum."""
        return [] if self.prior is None else [*self.prior.weighted_terms]

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("cannot pickle a sum over groups of ranks")

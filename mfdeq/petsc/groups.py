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
from ..arrays.backend import Array, host
from ..errors import ArgumentError
from ..models.losses import LossBase
from ..optimization.experiments import Experiments
from ..optimization.experiments_in_shares import ExperimentsInShares
from ..optimization.functional import ON_FAILURE_VALUES
from ..optimization.sum_arguments import checked_prior, checked_weights
from ..optimization.sum_functional import SumFunctional
from ..optimization.workers import evaluate, portable_error
from .arrays import DistributedArray
from .namespace import concat
from .ranks import Ranks

OF_STATES = ("gradient at", "forget")  # requests about states


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
        self.comm = PETSc.Comm(self._own)

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

        def make() -> SumFunctional:
            share = SumFunctional(
                [experiment(i) for i in mine],
                [given[i] for i in mine],
                names=[labels[i] for i in mine],
            )
            share.experiments.first = mine.start
            return share

        share: Any = None
        outcome: Any = None
        try:
            share = make()
            sizes = [total(F.model.state_size) for F in share.functionals]
            outcome = sum(sizes), total(share.functionals[0].model.param_size)
        except Exception as error:
            outcome = portable_error(error)
        found = self.exchange(outcome)
        raise_first(found)
        return GroupedSum(
            self, share, found, given, labels, prior, on_failure, accuracy, distributed
        )

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


class SharedParams:
    """The form of the parameters of a sum over groups: an array that every rank has."""

    def __init__(self, size: int) -> None:
        self.param_size = size


class GroupedSum(SumFunctional):
    """A sum whose experiments are held by groups of ranks; `Groups.sum` makes it.

    It is used like a `SumFunctional`, with numpy arrays as parameters, which are the same on every
    rank. All ranks call its methods together.

    Attributes
    ----------
    groups : Groups
    weights : list of float
        Those of all experiments.
    functionals : list of ReducedFunctional
        The experiments of this rank's group.
    """

    def __init__(
        self,
        groups: Groups,
        share: Any,
        sizes: Sequence[tuple[int, int]],
        weights: list[float],
        names: list[str],
        prior: LossBase | None,
        on_failure: str,
        accuracy: float | None,
        distributed: bool,
    ) -> None:
        P = sizes[0][1]
        for index, (_, other) in enumerate(sizes):
            if other != P:
                raise ArgumentError(
                    f"experiments: expected one number of parameters for all, got {P} in group 0 "
                    f"and {other} in group {index}"
                )
        self.groups, self.weights, self.names = groups, weights, names
        self.functionals, self.on_failure, self.accuracy = share.functionals, on_failure, accuracy
        self.model, self.executor = SharedParams(P), None
        self.prior = None if prior is None else checked_prior(prior)
        self._sizes, self._hessian = sizes, None
        self.experiments = GroupExperiments(groups, share, names, sizes, distributed)

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
            "expected functionals of this process, got a sum over groups of ranks, which cannot be "
            "added to others: give all experiments and their weights to one Groups.sum"
        )

    def sample(self, rng: Any, count: int) -> SumFunctional:
        """Raise an `ArgumentError`: the experiments are on other ranks."""
        return self.summands

    def state_rtol(self, backend: Any) -> float:
        """Return the largest relative tolerance of the states."""
        own = max(F.state_rtol(backend) for F in self.functionals)
        return max(self.groups.exchange(own))

    @property
    def name(self) -> str:
        """The number of the experiments, and the names of the models of group 0."""
        names = list(dict.fromkeys(F.name for F in self.functionals))
        first = self.groups.exchange(", ".join(names))[0]
        return f"{len(self)} experiments in {self.groups.count} groups: {first}"

    @property
    def sizes(self) -> tuple[Any, Any]:
        """The number of unknowns of all experiments, and P."""
        return sum(N for N, _ in self._sizes), self.model.param_size

    @property
    def priors(self) -> Any:
        """The factors and terms of the prior of the sum."""
        return [] if self.prior is None else [*self.prior.weighted_terms]

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("cannot pickle a sum over groups of ranks")


class GroupExperiments(ExperimentsInShares):
    """The experiments of all groups, of which each rank holds those of its own group."""

    def __init__(
        self,
        groups: Groups,
        share: Any,
        names: list[str],
        sizes: Sequence[tuple[int, int]],
        distributed: bool,
    ) -> None:
        self.groups, self.share, self.names, self.distributed = groups, share, names, distributed
        size, count = len(names), groups.count
        super().__init__([(size * s // count, size * (s + 1) // count) for s in range(count)])
        self._state_sizes = [N for N, _ in sizes]

    def ask(self, name: str, theta: Array, weights: Sequence[float], *arguments: Any) -> list[Any]:
        """Ask all groups for the same, and return their results, which may be exceptions."""
        self.groups.check_equal(name, (theta, list(weights), arguments))
        own = [x[self.groups.index] if isinstance(x, list) else x for x in arguments]
        first, last = self.bounds[self.groups.index]
        try:
            given = [self._states(x) if name in OF_STATES else self._params(x) for x in own]
            theta = theta if name == "forget" else self._params(theta)
            result = evaluate(self.share, name, theta, weights[first:last], *given)
            result = self._whole(result, name != "state")
        except Exception as error:
            result = portable_error(error)
        return self.groups.exchange(result)

    def _check(self, values: Sequence[Any]) -> None:
        Experiments([], self.names).check(values)

    def _split(self, state: Array) -> list[Array]:
        ends = host.cumsum(self._state_sizes)
        return [state[end - N : end] for N, end in zip(self._state_sizes, ends, strict=True)]

    def _total(self, which: int) -> int:
        own = self.share.solves, self.share.linear_solves
        return sum(counts[which] for counts in self.groups.exchange(own))

    # Arrays that every rank has, as the group has them.

    @property
    def _order(self) -> Any:
        """The number in theta of each of PETSc's unknowns, or all as they are."""
        layout = getattr(self.share.functionals[0].model, "param_layout", None)
        return slice(None) if layout is None else layout.order

    def _params(self, x: Any) -> Any:
        if not (self.distributed and isinstance(x, host.ndarray)):
            return x
        return self._distributed(x[self._order])

    def _distributed(self, x: Any) -> DistributedArray:
        ranks = Ranks.of(self.groups.comm)
        rows = ranks.agree_on_rows(x.shape[0])
        local = host.array(x[rows.slice_of(ranks.rank)], order="C")
        return DistributedArray(local, ranks, rows)

    def _states(self, x: Any) -> Any:
        """Return the states of this group's experiments, one after another."""
        if not self.distributed:
            return x
        sizes = [total(F.model.state_size) for F in self.share.functionals]
        ends = host.cumsum(sizes)
        parts = [self._distributed(x[end - N : end]) for N, end in zip(sizes, ends, strict=True)]
        return concat(parts)

    def _whole(self, x: Any, ordered: bool) -> Any:
        """Return a result as every rank can have it."""
        if isinstance(x, list | tuple):
            return type(x)(self._whole(part, ordered) for part in x)
        if not isinstance(x, DistributedArray):
            return x
        found = x.gathered()
        if not ordered:
            return found
        whole = host.empty_like(found)
        whole[self._order] = found
        return whole


def total(size: Any) -> int:
    """Return the number of entries of a vector from a number, or PETSc's pair (of this, of all)."""
    return int(size[1] if isinstance(size, tuple) else size)

"""The experiments of a sum that groups of ranks hold, and what is exchanged between the groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..arrays.backend import Array, Backend, host
from ..errors import ModelError
from ..optimization.experiments import Experiments
from ..optimization.experiments_in_shares import ExperimentsInShares
from ..optimization.sum_arguments import total_size
from ..optimization.workers import evaluate, portable_error
from .arrays import DistributedArray
from .namespace import concat
from .ranks import Ranks

PARAM_DTYPES = ("float32", "float64")
OF_STATES = ("gradient at", "forget")  # requests about states


class GroupContents(NamedTuple):
    """What all ranks know of the experiments of a group.

    Attributes
    ----------
    experiments, unknowns : int
        The numbers of experiments and of their unknowns.
    models : str
        The names of the models.
    state_rtols : dict of str to float
        The largest relative tolerance of a state, for parameters of each dtype.
    """

    experiments: int
    unknowns: int
    models: str
    state_rtols: dict[str, float]

    @classmethod
    def of(cls, share: Any) -> GroupContents:
        """Describe a sum of experiments, or None."""
        if share is None:
            return cls(0, 0, "", dict.fromkeys(PARAM_DTYPES, 0.0))
        unknowns = sum(total_size(F.model.state_size) for F in share.functionals)
        names = dict.fromkeys(F.name for F in share.functionals)
        backends = {dtype: Backend.of(host.zeros(0, dtype)) for dtype in PARAM_DTYPES}
        rtols = {dtype: share.state_rtol(backend) for dtype, backend in backends.items()}
        return cls(len(share), unknowns, ", ".join(names), rtols)


class GroupExperiments(ExperimentsInShares):
    """The experiments of all groups, of which each rank holds those of its own group.

    Parameters
    ----------
    groups : Groups
    share : SumFunctional or None
        The experiments of this rank's group; None if it has none.
    names : list of str
        The names of all experiments.
    contents : list of GroupContents
        What each group holds.
    distributed : bool
        Whether the models take Vecs.
    """

    advice_for_matrices = "make a SumFunctional of all experiments on all ranks, without Groups"

    def __init__(
        self,
        groups: Any,
        share: Any,
        names: list[str],
        contents: Sequence[GroupContents],
        distributed: bool,
    ) -> None:
        self.groups, self.share, self.names, self.distributed = groups, share, names, distributed
        self.processes, self.contents = groups.ranks, contents
        ends = [int(end) for end in host.cumsum([group.experiments for group in contents])]
        super().__init__(list(zip([0, *ends], ends, strict=False)))
        if share is not None:
            share.experiments.first = self.bounds[groups.index][0]

    def ask(self, name: str, theta: Array, weights: Sequence[float], *arguments: Any) -> list[Any]:
        """Ask all groups for the same, and return their results, which may be exceptions.

        Groups without experiments have none.
        """
        self.groups.check_equal(name, (theta, list(weights), arguments))
        result = None if self.share is None else self._answer(name, theta, weights, arguments)
        return [found for found in self.groups.exchange(result) if found is not None]

    def _answer(
        self, name: str, theta: Array, weights: Sequence[float], arguments: Sequence[Any]
    ) -> Any:
        """Return the result of this rank's group, or an exception."""
        own = [x[self.groups.index] if isinstance(x, list) else x for x in arguments]
        first, last = self.bounds[self.groups.index]
        try:
            given = [self._states(x) if name in OF_STATES else self._params(x) for x in own]
            theta = theta if name == "forget" else self._checked_params(theta)
            result = evaluate(self.share, name, theta, weights[first:last], *given)
            return self._whole(result, name != "state")
        except Exception as error:
            return portable_error(error)

    def _check(self, values: Sequence[Any]) -> None:
        Experiments([], self.names).check(values)

    def _split(self, state: Array) -> list[Array]:
        sizes = [group.unknowns for group in self.contents]
        ends = host.cumsum(sizes)
        return [state[end - N : end] for N, end in zip(sizes, ends, strict=True)]

    def _total(self, which: int) -> int:
        own = (0, 0) if self.share is None else (self.share.solves, self.share.linear_solves)
        return sum(counts[which] for counts in self.groups.exchange(own))

    # Arrays that every rank has, as the group has them.

    @property
    def _order(self) -> Any:
        """The number in theta of each of PETSc's unknowns, or all as they are."""
        layout = getattr(self.share.functionals[0].model, "param_layout", None)
        return slice(None) if layout is None else layout.order

    def _checked_params(self, theta: Array) -> Any:
        P = total_size(self.share.functionals[0].model.param_size)
        if theta.shape != (P,):
            raise ModelError(f"params: expected an array of shape ({P},), got shape {theta.shape}")
        return self._params(theta)

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
        sizes = [total_size(F.model.state_size) for F in self.share.functionals]
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

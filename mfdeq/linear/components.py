"""The connected components of a matrix, which are independent systems of equations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scipy import sparse
from scipy.sparse import csgraph

from ..arrays.backend import Array, Backend, host, is_dense
from ..arrays.sparse import sparse_on_host

QUICK_STEPS = 3  # in which most dense matrices with zeros are seen to be connected


@dataclass(frozen=True)
class Groups:
    """A partition of N indices into m groups.

    Attributes
    ----------
    members : (m, N) sparse matrix
        Ones where an index is in a group.
    labels : (N,) array of int
        The group of each index.
    """

    members: Any
    labels: Any

    @classmethod
    def of(cls, backend: Backend, labels: Any, count: int) -> Groups:
        """Make the groups from the number of the group of each index, on the host."""
        n = labels.shape[0]
        points, entries = host.arange(n + 1), host.ones(n)
        by_index = backend.sparse.csr_matrix(
            tuple(backend.xp.asarray(x) for x in (entries, labels, points)), shape=(n, count)
        )
        return cls(by_index.astype(backend.dtype).T.tocsr(), backend.xp.asarray(labels))

    def lengths_or_ones(self, x: Array) -> Array:
        """Return the norms of the parts of an (N,) or (N, k) array, with ones in place of zeros."""
        xp = Backend.of(x).xp
        with Backend.ignore_overflow():
            lengths = xp.sqrt(self.members @ (x * x))
        return xp.where(lengths > 0, lengths, xp.ones_like(lengths))

    def means(self, x: Array) -> Array:
        """Return the mean of each group of an (N,) array."""
        return (self.members @ x) / (self.members @ Backend.of(x).xp.ones_like(x))

    def spread(self, values: Array) -> Array:
        """Return the array with the value of its group for each index."""
        return values[self.labels, ...]


@dataclass(frozen=True)
class Components:
    """The connected components of a matrix, which are independent systems of equations.

    Attributes
    ----------
    rows, columns : Groups
        The equations and the unknowns of each component.
    """

    rows: Groups
    columns: Groups

    @property
    def adjoint(self) -> Components:
        """The components of A'."""
        return Components(self.columns, self.rows)


def _is_quickly_connected(A: Any) -> bool:
    """Return whether a dense matrix is seen to be connected in a few steps, from one unknown.

    Sparse matrices and their graphs cost more than the factorization of a small matrix.
    """
    present = A != 0
    if not present.diagonal().all():
        return False
    present = present | present.T
    reached = present[0]
    for _ in range(QUICK_STEPS):
        if reached.all():
            return True
        reached = present[reached].any(axis=0)
    return bool(reached.all())


def components_of(A: Any) -> Components | None:
    """Return the connected components of a square matrix; None if there is only one.

    Parameters
    ----------
    A : (N, N) sparse matrix or array
    """
    backend = Backend.of(A if is_dense(A) else A.data)
    if is_dense(A) and not bool(backend.xp.any(A == 0)):
        return None
    if backend.library.on_host and not backend.is_numpy:
        return None  # no sparse matrix multiplies arrays of this library
    if is_dense(A) and backend.is_numpy and _is_quickly_connected(A):
        return None
    n = A.shape[0]
    graph = sparse_on_host(A)
    if not (graph.data != 0).all():
        graph = graph.copy()
        graph.eliminate_zeros()
    if (graph.diagonal() != 0).all():
        # A seventh of the cost of all components, for which the graph is transposed.
        if n and csgraph.breadth_first_order(graph, 0, return_predecessors=False).shape[0] == n:
            return None
        count, labels = csgraph.connected_components(graph, directed=False)
        if count == 1:
            return None
        groups = Groups.of(backend, labels, count)
        return Components(groups, groups)
    # Equation i and unknown i may belong to different components.
    both = sparse.bmat([[None, graph], [graph.T, None]], format="csr")
    count, labels = csgraph.connected_components(both, directed=False)
    if count == 1:
        return None
    return Components(Groups.of(backend, labels[:n], count), Groups.of(backend, labels[n:], count))

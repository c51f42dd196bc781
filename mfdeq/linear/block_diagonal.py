"""Matrices of dense blocks on their diagonal, as of a batch of independent systems.

Products, inverses and solutions are batched operations on one (blocks, size, size) array, and
nothing of the size of the whole matrix is formed.
"""

from __future__ import annotations

from typing import Any

from ..arrays import dense_blocks
from ..arrays.backend import Array, Backend, array_on_host, host
from ..arrays.sparse import stored_bytes
from ..errors import ModelError, SingularStateError
from ..locks import cached_property
from ..operators.operator import Operator
from ..operators.user_operators import backend_of
from ..report import LinearCounts
from .direct.factors import DirectFactor
from .scaling import Scaling, weigh

MAX_RATIO = 16.0  # of the largest entries of rows, and of columns, which are not scaled
MAX_LISTED = 5  # blocks that are named in a message
MIN_SHARE = 0.1  # of the largest entry of a null vector, above which an unknown is named
MAX_TRIAL_RESIDUAL = 1e-3  # relative, of the solution of one block for a random right-hand side


class BlockDiagonal(Operator):
    """A square matrix of dense blocks of one size on its diagonal.

    It may be the `d_state` of a model whose unknowns fall into independent groups, or a block of a
    `Curvature`. Whichever solver is asked, systems are solved by the inverses of the blocks, all of
    them at once.

    Parameters
    ----------
    blocks : (count, size, size) array
        The blocks, in the order of the unknowns.

    Attributes
    ----------
    blocks : (count, size, size) array

    Raises
    ------
    ModelError
        If `blocks` has another shape, or entries that are NaN or infinite.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> blocks = np.array([[[2.0, 1.0], [0.0, 4.0]], [[1.0, 0.0], [0.0, 5.0]]])
    >>> A = mfdeq.linear.BlockDiagonal(blocks)
    >>> print(A @ np.array([1.0, 1.0, 1.0, 1.0]))
    [3. 4. 1. 5.]
    >>> print(mfdeq.Direct().setup(A).solve(np.array([3.0, 4.0, 1.0, 5.0])))
    [1. 1. 1. 1.]
    """

    advice_for_entries = "use its blocks"

    def __new__(cls, blocks: Any) -> Any:
        """Join the class to the LinearOperator of the library of the blocks."""
        shape = tuple(getattr(blocks, "shape", ()))
        if len(shape) != 3 or shape[1] != shape[2]:
            raise ModelError(
                "blocks of BlockDiagonal: expected an array of shape (count, size, size), got "
                f"{f'shape {shape}' if shape else type(blocks).__name__}"
            )
        return Operator.__new__(cls, backend_of(blocks))

    def __init__(self, blocks: Array) -> None:
        self._set(self.backend.check_array(blocks, tuple(blocks.shape), "blocks of BlockDiagonal"))

    def _set(self, blocks: Array) -> None:
        count, size, _ = blocks.shape
        super().__init__(self.backend, (count * size, count * size))
        self.blocks = blocks

    @classmethod
    def of(cls, backend: Backend, blocks: Array) -> BlockDiagonal:
        """Return the operator of blocks that need no check, which are not copied."""
        new = Operator.__new__(cls, backend)
        new._set(blocks)
        return new

    @property
    def has_entries(self) -> bool:
        """True: the entries are those of the blocks."""
        return True

    def _like(self, blocks: Array) -> BlockDiagonal:
        return BlockDiagonal.of(self.backend, blocks)

    def _apply(self, x: Array) -> Array:
        return multiply_blocks(self.backend, self.blocks, x)

    def _apply_adjoint(self, y: Array) -> Array:
        return multiply_blocks(self.backend, self._transposed, y)

    @property
    def _transposed(self) -> Array:
        return self.backend.xp.matrix_transpose(self.blocks)

    def _adjoint(self) -> Operator:
        return self._like(self._transposed)

    def abs_apply(self, x: Array) -> Array:
        """Return |A| |x|."""
        parts = self.backend.xp.reshape(x, (*self.blocks.shape[:2], -1))
        products = dense_blocks.multiply_sizes(self.backend.xp, self.blocks, parts)
        return self.backend.xp.reshape(products, x.shape)

    def identity_minus(self, in_place: bool = False) -> Operator:
        """Return I - J in blocks."""
        size = self.blocks.shape[1]
        return self._like(self.backend.eye(size, size) - self.blocks)

    def plus(self, other: Operator) -> Operator:
        """Return the sum, in blocks if the other operator has blocks of the same size."""
        if isinstance(other, BlockDiagonal) and other.blocks.shape == self.blocks.shape:
            return self._like(self.blocks + other.blocks)
        return super().plus(other)

    def times(self, factor: float) -> Operator:
        """Return a multiple in blocks."""
        return self._like(factor * self.blocks)

    def __neg__(self) -> Operator:
        return self._like(-self.blocks)

    @cached_property
    def array(self) -> Any:
        """The entries as a sparse matrix, for those who need one; it is assembled once."""
        xp, (count, size, _) = self.backend.xp, self.blocks.shape
        n = count * size
        columns = xp.reshape(xp.arange(n), (count, 1, size)) + xp.zeros(
            (count, size, size), dtype=xp.int64
        )
        starts = size * xp.arange(n + 1)
        return self.backend.sparse.csr_matrix(
            (xp.reshape(self.blocks, (-1,)), xp.reshape(columns, (-1,)), starts), shape=self.shape
        )

    def stored_entries(self) -> tuple[Any, ...]:
        """Return the blocks, by which matrices are compared."""
        return BlockDiagonal, self.blocks

    def factor_of_parts(self, solver: Any, counts: LinearCounts) -> BlockDiagonalFactor:
        """Return the factor of the blocks, whichever solver is asked."""
        return BlockDiagonalFactor(self, counts)


class BlockDiagonalFactor(DirectFactor):
    """The inverses of dense blocks on a diagonal.

    Parameters
    ----------
    A : BlockDiagonal
    counts : LinearCounts

    Raises
    ------
    SingularStateError
        If blocks are singular to working precision, with their indices.
    """

    name = "Direct (dense blocks)"

    def __init__(self, A: BlockDiagonal, counts: LinearCounts) -> None:
        with counts.add_time():
            self._scaling = _equilibrated(A)
            self.inverses = _invert(A, _scaled(A, self._scaling))
        super().__init__(A, None, counts)
        self._check_trial()
        self.counts.bytes = self.nbytes

    @property
    def scaling(self) -> Scaling:
        """The diagonals R and C such that R A C is balanced, block by block."""
        return self._scaling

    @property
    def nbytes(self) -> int:
        """Bytes of the inverses."""
        return stored_bytes(self.inverses)

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        return self._scaling.solve(self._apply_inverses, b, adjoint)

    def _apply_inverses(self, b: Array, adjoint: bool) -> Array:
        xp = self.backend.xp
        inverses = xp.matrix_transpose(self.inverses) if adjoint else self.inverses
        return multiply_blocks(self.backend, inverses, b)

    def _weights(self, b: Array, adjoint: bool) -> Array:
        """Return weights in which each block is compared with its own part of b."""
        xp, (count, size, _) = self.backend.xp, self.inverses.shape
        rows = self._scaling.columns if adjoint else self._scaling.rows
        parts = xp.reshape(weigh(rows, b), (count, size, -1))
        lengths = xp.sqrt(xp.sum(parts * parts, axis=1, keepdims=True))
        weights = 1.0 / xp.where(lengths > 0.0, lengths, xp.ones_like(lengths))
        spread = xp.broadcast_to(weights, parts.shape)
        return weigh(rows, xp.reshape(spread, b.shape))

    def preconditioned_factor(self, A: Operator, counts: LinearCounts, max_iterations: int) -> None:
        """Return None, since new inverses cost little."""

    def _check_trial(self) -> None:
        backend = self.backend
        b = backend.random(self.A.shape[0], seed=5)
        with backend.ignore_overflow():
            residual = b - self.A._apply(self._attempt(b, 0.0, False))
        worst = self._block_norms(residual) / self._block_norms(b)
        allowed = max(MAX_TRIAL_RESIDUAL, backend.default_rtol)
        bad = backend.xp.nonzero(~(worst <= allowed))[0]  # also NaN
        if bad.shape[0]:
            raise _singular_error(self.A, [int(i) for i in bad])

    def _block_norms(self, x: Array) -> Array:
        xp, (count, size, _) = self.backend.xp, self.inverses.shape
        parts = xp.reshape(self._scaling.multiply_rows(x), (count, size))
        return xp.sqrt(xp.sum(parts * parts, axis=1))


def multiply_blocks(backend: Backend, blocks: Array, x: Array) -> Array:
    """Return the product of blocks on a diagonal with an (N,) or (N, k) array."""
    xp, (count, _, size) = backend.xp, blocks.shape
    return xp.reshape(blocks @ xp.reshape(x, (count, size, -1)), x.shape)


def _equilibrated(A: BlockDiagonal) -> Scaling:
    """Return powers of two by which the largest entries of rows and columns are about one."""
    xp = A.backend.xp
    rows, columns = dense_blocks.largest_entries(xp, A.blocks)
    if all(_is_balanced(xp, x) for x in (rows, columns)):
        return Scaling()
    rows = _inverse_power(xp, rows)
    columns = _inverse_power(xp, xp.max(rows[:, :, None] * xp.abs(A.blocks), axis=1))
    return Scaling(xp.reshape(rows, (-1,)), xp.reshape(columns, (-1,)))


def _is_balanced(xp: Any, x: Array) -> bool:
    return bool(xp.all(xp.max(x, axis=1) <= MAX_RATIO * xp.min(x, axis=1)))


def _inverse_power(xp: Any, x: Array) -> Array:
    positive = x > 0.0
    return 2.0 ** -xp.round(xp.log2(xp.where(positive, x, xp.ones_like(x))))


def _scaled(A: BlockDiagonal, scaling: Scaling) -> Array:
    if scaling.rows is None or scaling.columns is None:
        return A.blocks
    xp, (count, size, _) = A.backend.xp, A.blocks.shape
    rows = xp.reshape(scaling.rows, (count, size, 1))
    return rows * A.blocks * xp.reshape(scaling.columns, (count, 1, size))


def _invert(A: BlockDiagonal, blocks: Array) -> Array:
    try:
        return dense_blocks.invert(A.backend.xp, blocks)
    except host.linalg.LinAlgError as error:
        raise _singular_error(A, singular_blocks(blocks)) from error


def singular_blocks(blocks: Array) -> list[int]:
    """Return the indices of the blocks in whose LU factorization a pivot is zero."""
    found = []
    for i in range(blocks.shape[0]):
        try:
            host.linalg.inv(blocks[i])
        except host.linalg.LinAlgError:
            found.append(i)
    return found


def _singular_error(A: Operator, indices: list[int]) -> SingularStateError:
    """Return the error for singular blocks, with the null vectors of the first."""
    assert isinstance(A, BlockDiagonal)
    backend, size = A.backend, A.blocks.shape[1]
    listed = ", ".join(map(str, indices[:MAX_LISTED]))
    more = f" and {len(indices) - MAX_LISTED} more" if len(indices) > MAX_LISTED else ""
    u, _, vt = host.linalg.svd(array_on_host(A.blocks[indices[0]]))
    vectors = []
    for x in (vt[-1], u[:, -1]):
        whole = host.zeros(A.shape[0], dtype=x.dtype)
        whole[indices[0] * size : (indices[0] + 1) * size] = x
        vectors.append(whole)
    involved = [host.nonzero(abs(x) > MIN_SHARE * abs(x).max())[0].tolist() for x in vectors]
    right, left = (backend.from_host(x, A.shape[0]) for x in vectors)
    return SingularStateError(
        f"{'block' if len(indices) == 1 else 'blocks'} {listed}{more} of the state operator A "
        f"{'is' if len(indices) == 1 else 'are'} singular to working precision",
        unknowns=involved[0],
        equations=involved[1],
        right=right,
        left=left,
    )

"""Hessians of scalar functions of (theta, h), in the user's form and as one operator K.

Vectors are stacked as (dtheta, dh), parameters first, so that

    K = [[params_params, state_params*], [state_params, state_state]].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..arrays.backend import Array, Backend, is_dense
from ..errors import ModelError
from ..locks import cached_property
from ..operators.dot_tests import check_columns, check_symmetric
from ..operators.matrix_operator import Matrix
from ..operators.operator import Operator, SelfAdjoint, Zero, columnwise
from ..operators.user_operators import as_operator


@dataclass(frozen=True)
class Curvature:
    """The Hessian of a scalar function of (theta, h), given by its blocks or by its product.

    Parameters
    ----------
    params_params, state_params, state_state : array, sparse matrix or LinearOperator, optional
        The blocks, of shapes (P, P), (N, P) and (N, N). The default None is a zero block. The
        (P, N) block is the transpose of ``state_params`` and is not passed.
    apply : callable, optional
        ``apply(dtheta, dh) -> (a_theta, a_h)``, the product of the Hessian with the direction
        (dtheta, dh). Pass either ``apply`` or blocks.
    blocks : bool, optional
        Whether ``apply`` also accepts blocks of directions of shapes (P, k) and (N, k). By default
        it is called for one direction at a time.

    Raises
    ------
    ModelError
        If both blocks and ``apply`` are given, or if ``apply`` is not callable.

    Notes
    -----
    K is the Hessian of lamᵀf for ``Linearization(curvature=...)``, where f is the map or residual,
    and of the loss for ``Loss(curvature=...)``. For a direction (u, z),

        K (u, z) = (K_pp u + K_spᵀ z,  K_sp u + K_ss z).

    Examples
    --------
    The Hessian of theta h² at theta = 2 and h = 3, by its blocks and by its product:

    >>> import numpy as np
    >>> import mfdeq
    >>> by_blocks = mfdeq.Curvature(state_params=np.array([[6.0]]), state_state=np.array([[4.0]]))
    >>> by_product = mfdeq.Curvature(apply=lambda u, z: (6 * z, 6 * u + 4 * z))
    >>> by_product.apply(np.array([1.0]), np.array([1.0]))
    (array([6.]), array([10.]))
    """

    params_params: Any = None
    state_params: Any = None
    state_state: Any = None
    apply: Callable[[Array, Array], tuple[Array, Array]] | None = None
    blocks: bool = False
    # Whether to compare the first product with a block with the products of its columns.
    check_blocks: ClassVar[bool] = True
    # Whether it is symmetric by the way in which it is computed.
    known_symmetric: ClassVar[bool] = False

    def __post_init__(self) -> None:
        parts = (self.params_params, self.state_params, self.state_state)
        if self.apply is not None and any(block is not None for block in parts):
            raise ModelError("Curvature: expected either blocks or apply=, got both")
        if self.apply is not None and not callable(self.apply):
            raise ModelError(
                f"apply of the Curvature: expected a function, got {type(self.apply).__name__}"
            )

    def _entries(self, K: Operator) -> Any:
        """Return the entries of K, whose products are `apply`, or None if they are not known.

        A factorization needs them. The result is a sparse matrix or array of shape (P+N, P+N).
        """
        return None


class CurvatureOperator(SelfAdjoint):
    """The Hessian ∇²_(θ,h) of a scalar function as an operator of shape (P+N, P+N).

    Attributes
    ----------
    params_params, state_params, state_state : Operator
        The blocks, of shapes (P, P), (N, P) and (N, N).
    """

    def __init__(self, source: Any, param_size: int, state_size: int) -> None:
        size = param_size + state_size
        super().__init__(source, (size, size))
        self.param_size, self.state_size = param_size, state_size

    def _submatrix(self, row: int, column: int) -> Operator:
        """Return the block with the rows and columns of the parameters (0) or the state (1)."""
        return _BlockOfProduct(self, row, column)

    @cached_property
    def params_params(self) -> Operator:
        """The block of second derivatives in the parameters, (P, P)."""
        return self._submatrix(0, 0)

    @cached_property
    def state_params(self) -> Operator:
        """The block of mixed second derivatives, (N, P)."""
        return self._submatrix(1, 0)

    @cached_property
    def state_state(self) -> Operator:
        """The block of second derivatives in the state, (N, N)."""
        return self._submatrix(1, 1)

    def split(self, x: Array) -> tuple[Array, Array]:
        """Split a stacked (P+N,) vector or (P+N, k) block into dtheta and dh."""
        return x[: self.param_size, ...], x[self.param_size :, ...]

    def assembled(self) -> BlockCurvature | None:
        """Return the same curvature with known blocks, or None if only products are known."""
        return None


class BlockCurvature(CurvatureOperator):
    """A curvature with known blocks.

    Parameters
    ----------
    backend : Backend
    param_size, state_size : int
    blocks : list of three Operators or None
        The blocks ``params_params``, ``state_params`` and ``state_state``; None is a zero block,
        which products skip.
    """

    def __init__(
        self, backend: Backend, param_size: int, state_size: int, blocks: list[Operator | None]
    ) -> None:
        super().__init__(backend, param_size, state_size)
        self.blocks = blocks

    def _submatrix(self, row: int, column: int) -> Operator:
        block = self.blocks[row + column]
        sizes = self.param_size, self.state_size
        return Zero(self.backend, (sizes[row], sizes[column])) if block is None else block

    def assembled(self) -> BlockCurvature:
        """Return this curvature."""
        return self

    def _apply(self, x: Array) -> Array:
        u, z = self.split(x)
        pp, sp, ss = self.blocks
        upper = _add_terms([pp and pp._apply(u), sp and sp._apply_adjoint(z)])
        lower = _add_terms([sp and sp._apply(u), ss and ss._apply(z)])
        zeros = self.backend.zeros
        upper = zeros(*u.shape) if upper is None else upper
        lower = zeros(*z.shape) if lower is None else lower
        return self.backend.xp.concat([upper, lower], axis=0)


class ProductCurvature(CurvatureOperator):
    """A curvature given only by its product."""

    def __init__(
        self, backend: Backend, param_size: int, state_size: int, curvature: Curvature, name: str
    ) -> None:
        super().__init__(backend, param_size, state_size)
        self.curvature, self.name = curvature, name
        self._check_blocks = curvature.check_blocks

    def assembled(self) -> BlockCurvature | None:
        """Return the curvature with the blocks of its entries, if these can be computed."""
        return self._assembled

    @cached_property
    def _assembled(self) -> BlockCurvature | None:
        entries = self.curvature._entries(self)
        if entries is None:
            return None
        if is_dense(entries):  # blocks are added to those of other curvatures, which are sparse
            entries = self.backend.sparse.csr_matrix(entries)
        P, N = self.param_size, self.state_size
        entries = (0.5 * (entries + entries.T)).tocsr()  # products are symmetric up to rounding
        parts = [entries[:P, :P], entries[P:, :P], entries[P:, P:]]
        blocks: list[Operator | None] = [
            Matrix(self.backend, part) if part.nnz else None for part in parts
        ]
        return BlockCurvature(self.backend, P, N, blocks)

    def _apply(self, x: Array) -> Array:
        if x.ndim == 2 and not self.curvature.blocks:
            return columnwise(self._call, x, self.backend, x.shape[0])
        if x.ndim == 2 and self._check_blocks:
            check_columns(self.backend, self._call, x.shape[0], f"the product of {self.name}")
            self._check_blocks = False
        return self._call(x)

    def _call(self, x: Array) -> Array:
        xp, check_array, to_user = self.backend.xp, self.backend.check_array, self.backend.to_user
        parts = self.split(x)
        shapes = parts[0].shape, parts[1].shape
        with self.backend.user_call(
            f"{self.name}, of (dtheta, dh) of shapes {shapes[0]}, {shapes[1]}"
        ):
            result = self.curvature.apply(to_user(parts[0]), to_user(parts[1]))  # type: ignore[misc]
            if not isinstance(result, (tuple, list)) or len(result) != 2:
                raise ModelError(
                    f"{self.name}: expected it to return a pair (a_theta, a_h), got "
                    f"{type(result).__name__}"
                )
            sizes = (self.param_size, self.state_size) if x.ndim == 1 else (None, None)
            result = tuple(map(self.backend.from_user, result, sizes))
        a_u = check_array(result[0], shapes[0], f"a_theta of {self.name}")
        return xp.concat([a_u, check_array(result[1], shapes[1], f"a_h of {self.name}")], axis=0)


class SumCurvature(CurvatureOperator):
    """The sum of two curvatures that cannot be merged block by block."""

    def __init__(self, left: CurvatureOperator, right: CurvatureOperator) -> None:
        super().__init__(left, left.param_size, left.state_size)
        self.left, self.right = left, right

    def _submatrix(self, row: int, column: int) -> Operator:
        return self.left._submatrix(row, column) + self.right._submatrix(row, column)

    def assembled(self) -> BlockCurvature | None:
        """Return the sum of the two with known blocks."""
        left, right = self.left.assembled(), self.right.assembled()
        if left is None or right is None:
            return None
        return _add_block_curvatures(left, right)

    def _apply(self, x: Array) -> Array:
        return self.left._apply(x) + self.right._apply(x)


class _BlockOfProduct(Operator):
    """One block of a curvature given only by its product.

    A vector is padded with zeros, multiplied by the curvature, and restricted to the rows of the
    block.
    """

    def __init__(self, of: CurvatureOperator, row: int, column: int) -> None:
        sizes = (of.param_size, of.state_size)
        super().__init__(of, (sizes[row], sizes[column]))
        self.of, self.row, self.column = of, row, column

    def _padded_product(self, x: Array, into: int, out: int) -> Array:
        parts = [
            self.of.backend.zeros(n, *x.shape[1:]) for n in (self.of.param_size, self.of.state_size)
        ]
        parts[into] = x
        return self.of.split(self.of._apply(self.of.backend.xp.concat(parts, axis=0)))[out]

    def _apply(self, x: Array) -> Array:
        return self._padded_product(x, self.column, self.row)

    def _apply_adjoint(self, y: Array) -> Array:
        return self._padded_product(y, self.row, self.column)


def as_curvature(
    backend: Backend,
    curvature: Any,
    param_size: int,
    state_size: int,
    name: str,
    accuracy: Callable[[], float] = lambda: 0.0,
    check_symmetry: bool = True,
) -> CurvatureOperator:
    """Return the result of a user's ``curvature`` as an operator, after checking it.

    Parameters
    ----------
    backend : Backend
    curvature : Curvature or callable, or CurvatureOperator
        An operator has been checked.
    param_size, state_size : int
    name : str
        The name of the curvature in error messages.
    accuracy : callable, optional
        ``accuracy()`` returns the relative accuracy of the curvature, for the tolerance of the
        symmetry test.
    check_symmetry : bool, optional
        Whether to test for symmetry. The default is True.

    Raises
    ------
    ModelError
        If `curvature` has a wrong type, or a block has a wrong shape or dtype.
    DerivativeError
        If the curvature is not symmetric.
    """
    if isinstance(curvature, CurvatureOperator):
        return curvature
    P, N = param_size, state_size
    # Arrays and LinearOperators may be callable too, but are not products of two arguments.
    is_product = callable(curvature) and not hasattr(curvature, "shape")
    if is_product and not isinstance(curvature, Curvature):
        curvature = Curvature(apply=curvature)
    if not isinstance(curvature, Curvature):
        raise ModelError(
            f"{name}: expected an mfdeq.Curvature or a callable "
            f"(dtheta, dh) -> (a_theta, a_h), got {type(curvature).__name__}"
        )
    check_symmetry = check_symmetry and not curvature.known_symmetric
    if curvature.apply is not None:
        K: CurvatureOperator = ProductCurvature(backend, P, N, curvature, name)
        if check_symmetry:
            check_symmetric(K, name, "its apply", accuracy)
        return K
    fields = {"params_params": (P, P), "state_params": (N, P), "state_state": (N, N)}
    blocks: list[Operator | None] = []
    for field, shape in fields.items():
        entry = getattr(curvature, field)
        block = None
        if entry is not None:
            block = as_operator(backend, entry, shape, f"{field} of {name}")
            if check_symmetry and field != "state_params":
                check_symmetric(block, name, field, accuracy)
        blocks.append(block)
    return BlockCurvature(backend, P, N, blocks)


def add_curvatures(left: CurvatureOperator, right: CurvatureOperator) -> CurvatureOperator:
    """Add two curvatures, block by block if both have known blocks."""
    if isinstance(left, BlockCurvature) and isinstance(right, BlockCurvature):
        return _add_block_curvatures(left, right)
    return SumCurvature(left, right)


def _add_block_curvatures(left: BlockCurvature, right: BlockCurvature) -> BlockCurvature:
    merged = [_add_blocks(a, b) for a, b in zip(left.blocks, right.blocks, strict=True)]
    return BlockCurvature(left.backend, left.param_size, left.state_size, merged)


def scale_curvature(of: CurvatureOperator, factor: float) -> CurvatureOperator:
    """Multiply a curvature by a real number."""
    if isinstance(of, BlockCurvature):
        return _scale_block_curvature(of, factor)
    return ScaledCurvature(of, factor)


def _scale_block_curvature(of: BlockCurvature, factor: float) -> BlockCurvature:
    blocks: list[Operator | None] = [
        None if block is None else block.times(factor) for block in of.blocks
    ]
    return BlockCurvature(of.backend, of.param_size, of.state_size, blocks)


class ScaledCurvature(CurvatureOperator):
    """A real multiple of a curvature whose blocks are not known."""

    def __init__(self, of: CurvatureOperator, factor: float) -> None:
        super().__init__(of, of.param_size, of.state_size)
        self.of, self.factor = of, factor

    def _submatrix(self, row: int, column: int) -> Operator:
        return self.factor * self.of._submatrix(row, column)

    def assembled(self) -> BlockCurvature | None:
        """Return the multiple with known blocks."""
        of = self.of.assembled()
        return None if of is None else _scale_block_curvature(of, self.factor)

    def _apply(self, x: Array) -> Array:
        return self.factor * self.of._apply(x)


def _add_blocks(a: Operator | None, b: Operator | None) -> Operator | None:
    if a is None or b is None:
        return b if a is None else a
    return a.plus(b)


def _add_terms(terms: list[Array | None]) -> Array | None:
    total: Array | None = None
    for term in terms:
        if term is not None:
            total = term if total is None else total + term
    return total

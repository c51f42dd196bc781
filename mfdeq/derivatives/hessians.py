"""Hessians of scalar functions by automatic differentiation, as products and as sparse matrices.

Products are all that most users of a Hessian need. Its entries are computed where a factorization
asks for them, by a product for each colour of the columns [1]_. The pattern is detected the first
time, from products at a nearby point with random weights, and again where an entry is missing.

References
----------
.. [1] T. F. Coleman and J. J. Moré, "Estimation of sparse Hessian matrices and graph coloring
   problems", Mathematical Programming 28 (1984), 243-270.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..arrays.backend import Array, Backend, is_dense
from ..models.curvature import Curvature, as_curvature
from ..operators.operator import Operator
from .source import DerivativeSource, Function
from .sparsity import DETECT, Sparsity

NearbyPoint = Callable[[int], tuple[Array, Array]]
WEIGHTS_SEED = 40
MAX_DENSE_SIZE = 2_000  # variables up to which the entries of a dense Hessian are of use


class Hessians:
    """The Hessians over (theta, h) of a scalar function of (h, theta, lam).

    Parameters
    ----------
    source : DerivativeSource
    scalar : callable
        A function of vectors of the source.
    state_size, param_size : int
    assemble : bool, optional
        Whether to compute entries where they are asked for.
    """

    def __init__(
        self,
        source: DerivativeSource,
        scalar: Function,
        state_size: int,
        param_size: int,
        assemble: bool = True,
    ) -> None:
        self.source, self.product = source, source.curvature(scalar)
        self.state_size, self.param_size = state_size, param_size
        size = param_size + state_size
        self.sparsity = Sparsity((DETECT, None), size, 0) if assemble else None

    def at(
        self,
        h: Array,
        theta: Array,
        lam: Array,
        unchanged: Function,
        nearby: NearbyPoint,
        data: tuple[Any, ...] = (),
    ) -> Curvature:
        """Return the Hessian at one point.

        Parameters
        ----------
        h, theta, lam : arrays
        unchanged : callable
            ``unchanged()`` raises an error if the function has changed since the linearization.
        nearby : callable
            ``nearby(i)`` returns a point (h, theta) close to this one, different for each i.
        data : tuple, optional
            Data beside the parameters, as one argument, or ().
        """
        source, backend = self.source, Backend.of(h)
        unchanged(compare=True)
        product = self.product(*source.operands(h, theta, lam), *data)

        def apply(u: Array, z: Array) -> tuple[Array, ...]:
            if u.ndim == 2 and u.shape[1] == 0:
                return u, z
            unchanged()
            return tuple(
                source.from_library(backend, part) for part in product(*source.operands(u, z))
            )

        def operator_near(i: int) -> Operator:
            weights = backend.random(lam.shape[0], seed=WEIGHTS_SEED + i)
            near = self.at(*nearby(i), weights, unchanged, nearby, data)
            sizes = self.param_size, self.state_size
            return as_curvature(backend, near, *sizes, "curvature", check_symmetry=False)

        def entries(K: Operator) -> Any:
            sparsity = self.sparsity
            if sparsity is None:
                return None
            found = sparsity.assemble(0, K, operator_near, backend.eps**0.5).array
            return None if is_dense(found) and found.shape[0] > MAX_DENSE_SIZE else found

        return _AutomaticCurvature(apply=apply, blocks=True, compute_entries=entries)


@dataclass(frozen=True)
class _AutomaticCurvature(Curvature):
    """A curvature whose products with blocks are not tested.

    They are correct by construction, since sources map the product over the columns, and a test
    would compile the product for another shape.
    """

    check_blocks: ClassVar[bool] = False
    compute_entries: Callable[[Operator], Any] = lambda K: None

    def _entries(self, K: Operator) -> Any:
        return self.compute_entries(K)

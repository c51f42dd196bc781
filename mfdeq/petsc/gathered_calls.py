"""Calls of functions written for numpy on gathered arrays, with their curvatures distributed.

Every rank calls the function on whole arrays, and keeps its own rows of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..models.curvature import BlockCurvature, Curvature, CurvatureOperator, ProductCurvature
from ..operators.operator import Operator
from .agreement import describe_result
from .errors import raise_on_all_ranks
from .layouts import Layout
from .numpy_matrices import check_entries, distribute_block, distribute_matrix, numpy_backend


class GatheredCalls:
    """Base class of what calls functions of numpy arrays for distributed (h, theta).

    Parameters
    ----------
    state_layout, param_layout : Layout
        Which rank owns which entry of the state and of the parameters.
    """

    def __init__(self, state_layout: Layout, param_layout: Layout) -> None:
        self.state_layout, self.param_layout = state_layout, param_layout

    def gather(self, h: Any, theta: Any) -> tuple[Array, Array]:
        """Return a state and parameters as numpy arrays, whole on every rank."""
        return self.state_layout.gather(h), self.param_layout.gather(theta)

    def gather_stacked(self, x: Array) -> Array:
        """Return a stacked (P+N,) direction as a numpy array, whole on every rank."""
        P = self.param_layout.rows.total
        return host.concatenate(self.gather(x[P:], x[:P])[::-1])

    def on_each_rank(
        self, name: str, function: Callable[..., Any], *arrays: Any, check: Any = None
    ) -> Any:
        """Call a function on gathered arrays, and raise its errors on all ranks.

        `check` receives what it returns, and may raise as well. Nothing in between communicates.
        """
        with raise_on_all_ranks(self.state_layout.ranks, name) as kinds:
            given = function(*arrays)
            kinds.append(describe_result(given))
            return given if check is None else check(given)

    def distributed_curvature(self, function: Any, lam: Array, name: str) -> Any:
        """Call a function that returns a curvature, and distribute it in the form that it has."""
        N, P = self.state_layout, self.param_layout
        layouts = {"params_params": (P, P), "state_params": (N, P), "state_state": (N, N)}
        blocks: dict[str, Any] = {}

        def check(given: Any) -> Any:
            if isinstance(given, Curvature) and given.apply is None:
                for field, pair in layouts.items():
                    if (block := getattr(given, field)) is not None:
                        blocks[field] = check_entries(block, *pair, f"{field} of {name}")
            return given

        given = self.on_each_rank(name, function, lam, check=check)
        product = given.apply if isinstance(given, Curvature) else given
        if callable(product):
            return Curvature(apply=lambda u, z: self._apply_curvature(product, u, z, name))
        if not isinstance(given, Curvature):
            return given
        return Curvature(
            **{field: distribute_matrix(block, *layouts[field]) for field, block in blocks.items()}
        )

    def curvature_operator(
        self, backend: Backend, whole: CurvatureOperator, name: str
    ) -> CurvatureOperator:
        """Distribute a curvature that every rank has, by its blocks if it has them."""
        N, P = self.state_layout, self.param_layout
        sizes = P.rows.total, N.rows.total
        if not isinstance(whole, BlockCurvature):

            def apply(u: Array, z: Array) -> tuple[Array, Array]:
                return whole.split(whole._apply(host.concatenate([u, z])))

            curvature = Curvature(apply=lambda u, z: self._apply_curvature(apply, u, z, name))
            return ProductCurvature(backend, *sizes, curvature, name)
        layouts = ((P, P), (N, P), (N, N))
        blocks: list[Operator | None] = [
            block and distribute_block(backend, block, *pair)
            for block, pair in zip(whole.blocks, layouts, strict=True)
        ]
        return BlockCurvature(backend, *sizes, blocks)

    def _apply_curvature(self, product: Any, dtheta: Any, dh: Any, name: str) -> Any:
        """Apply a product of numpy arrays to Vecs."""
        N, P = self.state_layout, self.param_layout

        def check(given: Any) -> Any:
            if not isinstance(given, tuple | list) or len(given) != 2:
                return given  # refused, with its name, by the caller
            named = zip(given, (P, N), ("a_theta", "a_h"), strict=True)
            return [
                numpy_backend().check_array(x, (layout.total,), f"{field} of {name}", finite=False)
                for x, layout, field in named
            ]

        given = self.on_each_rank(name, product, P.gather(dtheta), N.gather(dh), check=check)
        if not isinstance(given, list):
            return given
        return P.vec(given[0]), N.vec(given[1])

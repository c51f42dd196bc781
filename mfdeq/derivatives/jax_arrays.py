"""Arrays and pytrees of JAX as vectors."""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..errors import ModelError
from .source import TreeLayout
from .trees import check_dtypes, ordered_leaves


def array_layout(jax: ModuleType, tree: Any, name: str) -> TreeLayout:
    """Return the layout of an example: `name` is "state" or "params"."""
    return _JaxLayout(jax, tree, name)


class _JaxLayout(TreeLayout):
    """The layout of a pytree of real arrays, whose entries are concatenated in a vector."""

    def __init__(self, jax: ModuleType, tree: Any, name: str) -> None:
        self._jax, self._name = jax, name
        leaves = self._leaves(tree)
        dtypes = {path: str(leaf.dtype) for path, leaf in leaves.items()}
        check_dtypes(dtypes, f"{name} of mfdeq.from_jax", type(tree).__name__)
        if "float64" in dtypes.values() and not jax.config.jax_enable_x64:
            raise ModelError(
                f"{name} of mfdeq.from_jax is in float64, but JAX computes in float32: call\n"
                '    jax.config.update("jax_enable_x64", True)\n'
                "before the first use of jax, or pass float32 arrays"
            )
        dtype = host.result_type(*leaves.values())
        dtype = dtype if dtype.kind == "f" else host.dtype(jax.numpy.zeros(0).dtype)
        self.example = jax.tree_util.tree_map(
            lambda leaf: jax.numpy.asarray(leaf, dtype=dtype), tree
        )
        self._structure = jax.tree_util.tree_structure(tree)
        self._shapes = {path: leaf.shape for path, leaf in leaves.items()}
        sizes = [leaf.size for leaf in leaves.values()]
        self.size = sum(sizes)
        self._ends = list(itertools.accumulate(sizes))

    def _leaves(self, tree: Any) -> dict[str, Any]:
        """Return the leaves as arrays on the host, by their paths."""
        leaves, _ = self._jax.tree_util.tree_flatten_with_path(tree)
        return {
            self._jax.tree_util.keystr(path): host.asarray(self._on_host(leaf))
            for path, leaf in leaves
        }

    @staticmethod
    def _on_host(leaf: Any) -> Any:
        return leaf.detach() if hasattr(leaf, "detach") else leaf  # a tensor of PyTorch

    def to_tree(self, vector: Any) -> Any:
        parts = [vector] if len(self._ends) == 1 else self._jax.numpy.split(vector, self._ends[:-1])
        shaped = [part.reshape(s) for part, s in zip(parts, self._shapes.values(), strict=True)]
        return self._jax.tree_util.tree_unflatten(self._structure, shaped)

    def to_vector(self, tree: Any) -> Any:
        jnp = self._jax.numpy
        leaves = [jnp.ravel(leaf) for leaf in self._jax.tree_util.tree_leaves(tree)]
        return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves)

    def to_vector_like(self, tree: Any, vector: Any) -> Any:
        return self.to_vector(tree).astype(vector.dtype)

    def flatten(self, tree: Any) -> Any:
        found = {path: (leaf, leaf.shape) for path, leaf in self._leaves(tree).items()}
        leaves = ordered_leaves(found, self._shapes, f"{self._name} of mfdeq.from_jax")
        return host.concatenate([leaf.reshape(-1) for leaf in leaves])

    def describe(self, tree: Any) -> Any:
        return describe(self._jax, tree)


def describe(jax: ModuleType, tree: Any) -> Any:
    """Return the structure, shapes and dtypes of a tree."""
    return jax.tree_util.tree_map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)


def to_jax_data(jax: ModuleType, args: Any) -> Any:
    """Convert data beside the parameters, a pytree of arrays, to arrays of JAX."""

    def convert(path: Any, leaf: Any) -> Any:
        name = f"args{jax.tree_util.keystr(path)} of mfdeq.from_jax"
        try:
            converted = jax.numpy.asarray(leaf)
        except TypeError as error:
            raise ModelError(
                f"{name}: expected an array or a number, got {type(leaf).__name__}. Let the "
                "function close over what is no array"
            ) from error
        if str(getattr(leaf, "dtype", "")) == "float64" and converted.dtype != "float64":
            raise ModelError(
                f"{name} is in float64, but JAX computes in float32: call\n"
                '    jax.config.update("jax_enable_x64", True)\n'
                "before the first use of jax, or pass float32 arrays"
            )
        return converted

    return jax.tree_util.tree_map_with_path(convert, args)


def to_jax_array(jax: ModuleType, x: Array) -> Any:
    """Convert an array to an array of JAX, without a copy if possible."""
    if isinstance(x, host.ndarray):
        y = jax.numpy.asarray(x)
    else:
        y = jax.dlpack.from_dlpack(Backend.of(x).row_major(x))
    if y.dtype != x.dtype:
        raise ModelError(
            f"an array is in {x.dtype}, but JAX computes in {y.dtype}: call\n"
            '    jax.config.update("jax_enable_x64", True)\n'
            "before the first use of jax, or pass float32 arrays"
        )
    return y

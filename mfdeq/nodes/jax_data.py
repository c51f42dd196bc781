"""Data beside the parameters as one vector, behind them.

The primitives then have one operand for all that an equilibrium depends on, and derivatives with
respect to the data are like those with respect to the parameters. Integers have none.
"""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, host
from ..errors import ModelError
from ..models.model import Model


class PackedData:
    """The data of a model from JAX as a vector.

    Parameters
    ----------
    jax : module
    data : tuple
        Nothing, or one pytree of arrays of JAX.

    Attributes
    ----------
    size : int
        The number of entries.
    """

    def __init__(self, jax: Any, data: tuple[Any, ...]) -> None:
        self._jax = jax
        leaves, self._structure = jax.tree_util.tree_flatten(data)
        self._like = [(leaf.shape, leaf.dtype) for leaf in leaves]
        self.size = sum(leaf.size for leaf in leaves)
        self._ends = host.cumsum([leaf.size for leaf in leaves])[:-1]

    def pack(self, args: Any, dtype: Any, name: str) -> Any:
        """Return data as a vector of a dtype, after checking their structure.

        Parameters
        ----------
        args : pytree of arrays
        dtype : dtype
        name : str
            The node, for error messages.
        """
        jnp = self._jax.numpy
        leaves, structure = self._jax.tree_util.tree_flatten((args,))
        leaves = [jnp.asarray(leaf) for leaf in leaves]
        shapes = [leaf.shape for leaf in leaves]
        expected = [shape for shape, _ in self._like]
        if structure != self._structure or shapes != expected:
            raise ModelError(
                f"args of {name}: expected the structure of the args of mfdeq.from_jax, with "
                f"shapes {expected}, got {shapes}"
            )
        for leaf, (_, like) in zip(leaves, self._like, strict=True):
            if leaf.dtype.kind == "f" != like.kind:
                raise ModelError(f"args of {name}: expected {like}, got {leaf.dtype}")
        return jnp.concatenate([leaf.astype(dtype).reshape(-1) for leaf in leaves])

    def unpack(self, vector: Any) -> tuple[Any, ...]:
        """Return the data that a vector of JAX or of numpy holds."""
        parts = (host if isinstance(vector, host.ndarray) else self._jax.numpy).split(
            vector, self._ends
        )
        leaves = [
            part.reshape(shape).astype(dtype)
            for part, (shape, dtype) in zip(parts, self._like, strict=True)
        ]
        return self._jax.tree_util.tree_unflatten(self._structure, leaves)

    def model_with(self, model: Any, vector: Array) -> Model:
        """Return the model with the data that a vector holds."""
        return model.with_args(*self.unpack(vector))

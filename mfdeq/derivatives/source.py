"""The interface of libraries for automatic differentiation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from ..arrays.backend import Array, Backend

Function = Callable[..., Any]


class TreeLayout(ABC):
    """The layout of a structured state or structured parameters as one vector.

    Attributes
    ----------
    size : int
        The number of entries of the vector.
    example : object
        The user's example, with arrays of the library as leaves.
    """

    size: int
    example: Any

    @abstractmethod
    def to_tree(self, vector: Any) -> Any:
        """Convert a vector to a tree."""

    @abstractmethod
    def to_vector(self, tree: Any) -> Any:
        """Convert a tree to a vector."""

    @abstractmethod
    def describe(self, tree: Any) -> Any:
        """Return the structure, shapes and dtypes of a tree, for comparison and messages."""


class JacobianProducts(NamedTuple):
    """The products with one Jacobian of f at one (h, theta).

    Attributes
    ----------
    product, adjoint_product : callable
        Functions of a vector of the library, or of an (n, k) block.
    compiled : object
        The first argument of `DerivativeSource.compiled_krylov`, by default None.
    """

    product: Function
    adjoint_product: Function
    compiled: Any = None


class DerivativeSource(ABC):
    """Base class of automatic differentiation libraries, such as those of `from_jax`.

    To add a source, derive from this class in a new module, write a public function that calls
    `mfdeq.derivatives.automatic.model_from` with an instance (and `loss_from` for losses), and
    add that function to the public names in ``mfdeq/__init__.py``. Nothing else changes, since the
    rest of the library uses only operators.

    Functions passed to the methods take vectors of the library, h of size N and theta of size P,
    and return an (N,) vector f(h, theta) or a scalar. Methods that return functions are called once
    for each model, so that functions are compiled only once; the functions are called at every
    equilibrium. Derivatives must be exact to rounding. A source with inexact derivatives should be
    a `Model` instead, whose `linearize` returns a `ComputedLinearization` with its accuracy, and
    whose `linearize_for_comparison` returns one with independent errors.

    Attributes
    ----------
    name : str
        The name of the source in reports, such as "JAX".
    caller : str
        The public function that is named in error messages, such as "mfdeq.from_jax".

    Notes
    -----
    In the `ComputedLinearization` of a model, ``d_state`` and ``d_params`` are operators that use
    `jacobians`, ``curvature`` uses `curvature`, ``second`` uses `second_derivative`, ``accuracy``
    is (0, 0), and ``sources`` contains the name of the source for each field.
    """

    name: str
    caller: str

    @abstractmethod
    def layout(self, tree: Any, name: str) -> TreeLayout:
        """Return the layout of an example; `name` is "state" or "params"."""

    @abstractmethod
    def describe_output(self, f: Function, state: Any, params: Any) -> Any:
        """Describe the output of f for the examples, in the form of `TreeLayout.describe`."""

    @abstractmethod
    def to_library(self, *arrays: Array) -> list[Any]:
        """Convert arrays of a model to arrays of the library, without a copy where possible."""

    @abstractmethod
    def from_library(self, backend: Backend, x: Any) -> Array:
        """Convert an array of the library to a new array of the backend."""

    @abstractmethod
    def value(self, function: Function) -> Function:
        """Return a function (h, theta) -> f(h, theta) that records no derivative information."""

    @abstractmethod
    def gradient(self, scalar: Function) -> Function:
        """Return a function (h, theta) -> (dL/dh, dL/dtheta) for a scalar function L."""

    @abstractmethod
    def jacobians(self, function: Function) -> Function:
        """Return a function (h, theta) -> the `JacobianProducts` of df/dh and of df/dtheta."""

    @abstractmethod
    def second_derivative(self, function: Function) -> Function:
        """Return a function (h, theta, a, b) -> f''[a, b] with a, b of the form (dtheta, dh)."""

    @abstractmethod
    def curvature(self, scalar: Function) -> Function:
        """Return a function (h, theta, lam) -> product with the Hessian of scalar(h, theta, lam).

        The product takes (dtheta, dh), vectors or blocks, and returns (a_theta, a_h).
        """

    def compiled_krylov(self, compiled: Any, method: str, identity_minus: bool) -> Any:
        """Compile a whole Krylov solve, or return None (the default).

        Parameters
        ----------
        compiled : object
            The attribute ``compiled`` of the `JacobianProducts`.
        method : {"cg", "gmres"}
        identity_minus : bool
            Whether to solve with I − J instead of the Jacobian J.

        Returns
        -------
        CompiledSolve or None
            A `mfdeq.operators.compiled_solves.CompiledSolve` on arrays of the library.
        """
        return None

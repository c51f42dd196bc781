"""The contract for sources of derivatives that differentiate a function automatically."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from ..arrays.backend import Array, Backend

Function = Callable[..., Any]


class TreeLayout(ABC):
    """The structure of a state or of parameters, and how it is laid out as one vector.

    Attributes
    ----------
    size : int
        The number of entries of the vector.
    example : object
        The example that the user gave, with leaves that are arrays of the library.
    """

    size: int
    example: Any

    @abstractmethod
    def to_tree(self, vector: Any) -> Any:
        """Return the structure whose entries are those of a vector."""

    @abstractmethod
    def to_vector(self, tree: Any) -> Any:
        """Return the vector of the entries of a structure."""

    @abstractmethod
    def describe(self, tree: Any) -> Any:
        """Return the structure, shapes and dtypes of a tree, to be compared and printed."""


class JacobianProducts(NamedTuple):
    """The products with one Jacobian of f at one (h, theta).

    Attributes
    ----------
    product, adjoint_product : callable
        Of a vector of the library, or of a block (n, k) of them.
    compiled : object
        What `DerivativeSource.compiled_krylov` needs to compile a whole solve; None if nothing.
    """

    product: Function
    adjoint_product: Function
    compiled: Any = None


class DerivativeSource(ABC):
    """A library of automatic differentiation, as `from_jax` and `from_torch` use one.

    To add a source, derive from this class in a module of its own, write a public function that
    calls `mfdeq.derivatives.automatic.model_from` with an instance (and `loss_from` for losses),
    and add that function to the list of public names in ``mfdeq/__init__.py``. Nothing else
    changes: whatever comes after the linearization sees operators only.

    Functions that are passed in take vectors of the library, h of size N and theta of size P, and
    are flat: they return an (N,) vector f(h, theta), or a scalar. Methods that return functions
    are called once for each model, so that a library that compiles does so once; the functions
    are called at every equilibrium. They must give derivatives that are exact to rounding. A
    source whose derivatives are not is a `Model` of its own: its `linearize` returns a
    `ComputedLinearization` with its accuracy, and its `linearize_for_comparison` one with other
    errors.

    Attributes
    ----------
    name : str
        What reports call the source, such as "JAX".
    caller : str
        The public function that error messages name, such as "mfdeq.from_jax".

    Notes
    -----
    The `ComputedLinearization` of a model has ``d_state`` and ``d_params`` as operators made of
    `jacobians`, ``curvature`` from `curvature`, ``second`` from `second_derivative`, an
    ``accuracy`` of (0, 0), and the name of the source for each field in ``sources``.
    """

    name: str
    caller: str

    @abstractmethod
    def layout(self, tree: Any, name: str) -> TreeLayout:
        """Return the layout of an example, which is the "state" or the "params"."""

    @abstractmethod
    def describe_output(self, f: Function, state: Any, params: Any) -> Any:
        """Describe what f returns for two examples, as `TreeLayout.describe` does."""

    @abstractmethod
    def to_library(self, *arrays: Array) -> list[Any]:
        """Convert arrays of a model to arrays of the library, without a copy where possible."""

    @abstractmethod
    def from_library(self, backend: Backend, x: Any) -> Array:
        """Convert an array of the library to a new array of the backend."""

    @abstractmethod
    def value(self, function: Function) -> Function:
        """Return a function (h, theta) -> f(h, theta) that records nothing for derivatives."""

    @abstractmethod
    def gradient(self, scalar: Function) -> Function:
        """Return a function (h, theta) -> (dL/dh, dL/dtheta) for a scalar function L."""

    @abstractmethod
    def jacobians(self, function: Function) -> Function:
        """Return a function (h, theta) -> the `JacobianProducts` of df/dh and of df/dtheta."""

    @abstractmethod
    def second_derivative(self, function: Function) -> Function:
        """Return a function (h, theta, a, b) -> f''[a, b], with a = (dtheta, dh), and so b."""

    @abstractmethod
    def curvature(self, scalar: Function) -> Function:
        """Return a function (h, theta, lam) -> product with the Hessian of scalar(h, theta, lam).

        The product takes (dtheta, dh), vectors or blocks, and returns (a_theta, a_h).
        """

    def compiled_krylov(self, compiled: Any, method: str, identity_minus: bool) -> Any:
        """Compile a whole Krylov solve, or return None, the default.

        Parameters
        ----------
        compiled : object
            That of the `JacobianProducts`.
        method : {"cg", "gmres"}
        identity_minus : bool
            Whether to solve with I − J instead of the Jacobian J.

        Returns
        -------
        CompiledSolve or None
            A `mfdeq.operators.compiled_solves.CompiledSolve` on arrays of the library.
        """
        return None

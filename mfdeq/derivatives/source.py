"""The interface of libraries for automatic differentiation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..arrays.backend import Array, Backend, host
from ..errors import ArgumentError, ModelError, short_repr
from .data import leaves_by_path, map_leaves
from .references import References

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

    def to_vector_like(self, tree: Any, vector: Any) -> Any:
        """Convert a tree to a vector of the dtype of another vector.

        A function may promote its results. By default the dtype is not changed.
        """
        return self.to_vector(tree)

    def flatten(self, tree: Any) -> Any:
        """Convert a user's tree to an array on the host, after checking its structure.

        By default the structure is not checked.
        """
        return host.asarray(self.to_vector(tree))

    @abstractmethod
    def describe(self, tree: Any) -> Any:
        """Return the structure, shapes and dtypes of a tree, for comparison and messages."""


class JacobianProducts(NamedTuple):
    """The products with one Jacobian of f at one (h, theta).

    Attributes
    ----------
    product, adjoint_product : callable or None
        Functions of a vector of the library, or of an (n, k) block. One of them may be None if the
        library cannot compute it. The Jacobian is then assembled by the other one.
    compiled : object
        The first argument of `DerivativeSource.compiled_krylov`, by default None.
    """

    product: Function | None
    adjoint_product: Function | None
    compiled: Any = None


class DerivativeSource(ABC):
    """Base class of automatic differentiation libraries, such as those of `from_jax`.

    To add a source, derive from this class in a new module, write a public function that calls
    `mfdeq.derivatives.automatic.model_from` with an instance (and
    `mfdeq.derivatives.automatic_loss.loss_from` for losses), and add that function to the public
    names in ``mfdeq/__init__.py``. Nothing else changes, since the rest of the library uses only
    operators.

    Functions passed to the methods take vectors of the library, h of size N and theta of size P,
    and return an (N,) vector f(h, theta) or a scalar. If the model has data beside the parameters
    (`data`), these are one more argument, the last one, of these functions and of those that the
    methods return; they are not differentiated. Methods that return functions are called once
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
    cuts : str
        What cuts derivatives of the library, for the warning about wrong ones.

    Notes
    -----
    In the `DeferredLinearization` of a model, ``d_state`` and ``d_params`` are operators that use
    `jacobians`, the latter once it is needed, ``curvature`` uses `curvature`, ``second`` uses
    `second_derivative`, ``accuracy`` is (0, 0), and ``sources`` contains the name of the source for
    each field.

    Examples
    --------
    What a source defines, besides `name` and `caller`; the page on extending the library has a
    complete one:

    >>> from mfdeq.derivatives.source import DerivativeSource
    >>> print(*sorted(DerivativeSource.__abstractmethods__))
    curvature describe_output from_library gradient jacobians layout second_derivative
    to_library value
    """

    name: str
    caller: str
    cuts = "values that are computed outside of the library"

    @abstractmethod
    def layout(self, tree: Any, name: str) -> TreeLayout:
        """Return the layout of an example; `name` is "state" or "params"."""

    @abstractmethod
    def describe_output(self, f: Function, state: Any, params: Any, *data: Any) -> Any:
        """Describe the output of f for the examples, in the form of `TreeLayout.describe`."""

    def data(self, args: Any) -> Any:
        """Convert data beside the parameters to what f takes; by default they are unchanged."""
        return args

    def data_leaves(self, data: Any) -> Mapping[str, Any]:
        """Return the leaves of converted data by their paths; by default those of containers."""
        return leaves_by_path(data)

    def map_data(self, function: Callable[[Any], Any], data: Any) -> Any:
        """Return converted data with a function of each leaf; by default those of containers."""
        return map_leaves(function, data)

    def vectorized(self, function: Function, axes: tuple[int | None, ...]) -> Function:
        """Return a function that maps another over an axis of its arguments, for batches.

        Parameters
        ----------
        function : callable
        axes : tuple of int or None
            The axis of each argument, None where it is the same for all. Results are stacked along
            their first axis. By default batches are not supported.
        """
        raise ArgumentError(f"batched of {self.caller}: {self.name} does not map over samples")

    def sample_step(self, function: Function, is_map: bool) -> Function | None:
        """Return a function that computes Newton's steps of all samples, or None (the default).

        Parameters
        ----------
        function : callable
            A function (h, theta, data) of one sample.
        is_map : bool
            Whether R = h - f and A = I - df/dh, or R = f and A = df/dh.

        Returns
        -------
        callable or None
            A function (H, theta, data, sizes) -> (R, |A| s, |A| max(s, |D|), D, solve), where s are
            the sizes, D = A^-1 R, and ``solve(b)`` returns A^-1 b for (samples, n, k) arrays.
        """
        return None

    def sample_blocks(self, function: Function) -> Function:
        """Return a function (H, theta, data) -> (values, Jacobians) of the samples of a batch.

        Parameters
        ----------
        function : callable
            A function (h, theta, data) of one sample.

        Returns
        -------
        callable
            Its arguments are of shapes (samples, n) and (P,), and data with a leading axis; its
            results of shapes (samples, n) and (samples, n, n).
        """
        raise ArgumentError(f"batched of {self.caller}: {self.name} does not map over samples")

    @abstractmethod
    def to_library(self, *arrays: Array) -> list[Any]:
        """Convert arrays of a model to arrays of the library, without a copy where possible."""

    def operands(self, *arrays: Array) -> list[Any]:
        """Convert arrays to what the functions of this source take; by default as `to_library`."""
        return self.to_library(*arrays)

    @abstractmethod
    def from_library(self, backend: Backend, x: Any) -> Array:
        """Convert an array of the library to a new array of the backend."""

    def view(self, backend: Backend, x: Any) -> Array:
        """Convert an array that is not changed, without a copy if the library supports that."""
        return self.from_library(backend, x)

    @abstractmethod
    def value(self, function: Function) -> Function:
        """Return a function (h, theta) -> f(h, theta) that records no derivative information."""

    @abstractmethod
    def gradient(self, scalar: Function) -> Function:
        """Return a function (h, theta) -> (dL/dh, dL/dtheta) for a scalar function L."""

    @abstractmethod
    def jacobians(self, function: Function) -> Sequence[Function]:
        """Return two functions (h, theta) -> the `JacobianProducts` of df/dh and of df/dtheta."""

    @abstractmethod
    def second_derivative(self, function: Function) -> Function:
        """Return a function (h, theta, a, b) -> f''[a, b] with a, b of the form (dtheta, dh)."""

    @abstractmethod
    def curvature(self, scalar: Function) -> Function:
        """Return a function (h, theta, lam) -> product with the Hessian of scalar(h, theta, lam).

        The product takes (dtheta, dh), vectors or blocks, and returns (a_theta, a_h).
        """

    def state_gradient(self, scalar: Function) -> Function:
        """Return a function (h, theta) -> dL/dh that the source can differentiate further.

        It is the residual of a model of kind "argmin". By default that kind is not supported.
        """
        raise ArgumentError(f"kind of {self.caller}: expected 'map' or 'residual', got 'argmin'")

    def check_scalar(self, f: Function, caller: str, state: Any, params: Any, *data: Any) -> None:
        """Raise `ModelError` unless f returns one real number; by default nothing is checked.

        Parameters
        ----------
        f : callable
        caller : str
            The public function that has f as an argument, such as "mfdeq.loss_from_jax".
        state, params : pytree
            Examples.
        *data
            Data beside the parameters.
        """
        return None

    def trace_once(self, function: Function) -> Function:
        """Return a function whose derivatives are all those of one trace, if the source traces.

        What it closes over is then constant. By default the function itself is returned.
        """
        return function

    def watch(self, function: Function, references: References, *x: Any) -> Function:
        """Return a function that raises `ModelError` if what f uses has changed since.

        Parameters
        ----------
        function : callable
            A function of x that calls the user's function f.
        references : References
            What f refers to.
        *x : arrays of the library
            The arguments, at which the function may be evaluated.

        Returns
        -------
        callable
            ``unchanged(compare=False)``; with ``compare=True`` the function may be evaluated.

        Raises
        ------
        ModelError
            If the function changes what it uses.
        """
        return _nothing

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


def not_scalar_error(caller: str, output: Any) -> ModelError:
    """Return the error for a function that returns something else than one real number."""
    got, advice = short_repr(output), ""
    if (shape := getattr(output, "shape", None)) is not None:
        dtype = str(output.dtype).removeprefix("torch.")
        got = f"an array of shape {tuple(shape)} and {dtype}"
        if math.prod(shape) != 1:
            advice = ". Return its .sum() or .mean() if all of it is meant"
    elif isinstance(output, float):
        advice = ", which has no derivatives. Return the scalar itself, not its .item()"
    elif isinstance(output, (tuple, list, dict)):
        advice = ". Return the number alone"
    return ModelError(
        f"function of {caller}: expected it to return a real number, got {got}{advice}"
    )


def _nothing(*_: Any, compare: bool = False) -> None:
    """Do nothing."""

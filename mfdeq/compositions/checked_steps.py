"""The residual and the derivatives of steps at fixed parameters, after checking them.

Matrices that are the same in several steps become one operator, so that they share one factor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend, is_sparse
from ..errors import ModelError
from ..linear.operands import fingerprint, have_equal_entries
from ..operators.operator import Operator
from ..operators.user_operators import as_operator
from .step_curvature import CheckedStepCurvature
from .step_model import Start, StepLinearization, StepModel

ADVICE_FOR_CURVATURE = (
    "pass StepLinearization(curvature=lambda lam: mfdeq.StepCurvature(...)), or, where the step is "
    "made from a model, make it from mfdeq.mixed(model), which computes it by differences. For a "
    "step that is linear in (h, previous, theta), return mfdeq.StepCurvature()"
)
MAX_SHARED_MATRICES = 8  # of each kind, which those of another step may turn out to be


@dataclass
class CheckedStep:
    """The checked derivatives of one step.

    Attributes
    ----------
    D, L : Operator, (n, n)
        The derivatives with respect to the state and to the state before.
    B : Operator, (n, P)
        The derivative with respect to the parameters, with the start held fixed.
    linearization : StepLinearization
    name : str
    """

    backend: Backend
    D: Operator
    L: Operator
    B: Operator
    linearization: StepLinearization
    name: str

    def curvature(self, lam: Array, check_symmetry: bool = True) -> CheckedStepCurvature:
        """Return the Hessian of lam'R with respect to (theta, previous, h)."""
        if self.linearization.curvature is None:
            raise ModelError(
                f"{self.name} returned no curvature, which second derivatives require: "
                f"{ADVICE_FOR_CURVATURE}"
            )
        name = f"curvature of {self.name}"
        with self.backend.user_call(f"{name}, of lam of shape {lam.shape}"):
            given = self.linearization.curvature(self.backend.to_user(lam))
        n, P = self.B.shape
        return CheckedStepCurvature.of(self.backend, given, P, n, name, check_symmetry)

    def second(self, a: tuple[Array, Array, Array], b: tuple[Array, Array, Array]) -> Array:
        """Return R''[a, b], (n,), along a = (dtheta, dprevious, dh) and b."""
        if self.linearization.second is None:
            raise ModelError(
                f"{self.name} returned no second, which second-order sensitivities of the state "
                "require: pass StepLinearization(second=lambda a, b: ...), which returns the (n,) "
                "second derivative along a = (dtheta, dprevious, dh) and b"
            )
        to_user, name = self.backend.to_user, f"second of {self.name}"
        with self.backend.user_call(name):
            value = self.linearization.second(tuple(map(to_user, a)), tuple(map(to_user, b)))
        return self.backend.vector(value, self.D.shape[0], name)


class CheckedSteps:
    """The steps of a trajectory at fixed parameters.

    Parameters
    ----------
    step : StepModel
    start : Start
    count : int
        The number of steps.
    theta : (P,) array
    backend : Backend
    earlier : CheckedSteps, optional
        The steps at other parameters, whose matrices may be the same.

    Attributes
    ----------
    start : (n,) array
        The start at theta.
    evaluations, linearizations : int
        The number of calls of the step's functions.
    """

    def __init__(
        self,
        step: StepModel,
        start: Start,
        count: int,
        theta: Array,
        backend: Backend,
        earlier: CheckedSteps | None = None,
    ) -> None:
        self.step, self.count, self.theta, self.backend = step, count, theta, backend
        self.size, self.param_size = step.state_size, step.param_size
        self.name = step.display_name
        self._given_start = start
        self.evaluations = self.linearizations = 0
        self.start = self._of_start("value", (self.size, 1), start.value)
        self._kept: dict[int, tuple[Array, Array, CheckedStep]] = {}
        # By field and by fingerprint: what the user has returned, and its operator.
        self._shared: dict[str, dict[Any, tuple[Any, Operator]]] = {}
        if earlier is not None and earlier.backend == backend:
            self._shared = earlier._shared

    @property
    def shared_matrices(self) -> list[Operator]:
        """The latest matrices d_state, which those of other steps may turn out to be."""
        return [operator for _, operator in self._shared.get("d_state", {}).values()]

    # The start.

    def _of_start(
        self, field: str, shape: tuple[int, int], function: Callable[..., Any], *arguments: Array
    ) -> Any:
        backend, name = self.backend, f"{field} of the start of {self.name}"
        with backend.user_call(f"{name}(theta)"):
            given = function(*map(backend.to_user, (self.theta, *arguments)))
        if field in ("value", "second"):
            return backend.vector(given, shape[0], name, convert=True)
        return as_operator(backend, given, shape, name, convert=True)

    def start_derivative(self) -> Operator:
        """Return the derivative of the start, (n, P)."""
        start = self._given_start
        return self._of_start("d_params", (self.size, self.param_size), start.d_params)

    def start_curvature(self, w: Array) -> Operator | None:
        """Return the Hessian of w' start, (P, P), or None where it is zero."""
        curvature, P = self._given_start.curvature, self.param_size
        return None if curvature is None else self._of_start("curvature", (P, P), curvature, w)

    def start_second(self, u: Array, v: Array) -> Array | None:
        """Return the second derivative of the start along u and v, or None where it is zero."""
        second = self._given_start.second
        if second is None and self._given_start.curvature is not None:
            raise ModelError(
                f"the start of {self.name} has a curvature, but no second, which second-order "
                "sensitivities of the state require: pass mfdeq.Start(second=lambda theta, u, v: "
                "...)"
            )
        return None if second is None else self._of_start("second", (self.size, 1), second, u, v)

    # The steps.

    def guess(self, k: int, previous: Array) -> Array:
        """Return the state from which step k is solved."""
        if type(self.step).initial_state is StepModel.initial_state:
            return previous
        name, to_user = f"{self.name}.initial_state", self.backend.to_user
        with self.backend.user_call(f"{name}(previous, theta, {k})"):
            given = self.step.initial_state(to_user(previous), to_user(self.theta), k)
        return self.backend.vector(given, self.size, f"{name} in step {k}", convert=True)

    def residual(self, k: int, h: Array, previous: Array, finite: bool = True) -> Array:
        """Return R_k, (n,); NaN is an error unless `finite` is False."""
        self.evaluations += 1
        name, to_user = f"{self.name}.residual", self.backend.to_user
        with self.backend.user_call(f"{name}(h, previous, theta, {k})"):
            value = self.step.residual(to_user(h), to_user(previous), to_user(self.theta), k)
        return self.backend.check_array(value, (self.size,), f"{name} in step {k}", finite=finite)

    def keep(self, k: int, h: Array, previous: Array, step: CheckedStep, limit: Any) -> None:
        """Keep the derivatives of a step for the next call of `linearize` for it.

        With a `limit`, only those of so many latest steps are kept.
        """
        self._kept[k] = h, previous, step
        if limit is not None and len(self._kept) > limit:
            del self._kept[next(iter(self._kept))]

    def linearize(self, k: int, h: Array, previous: Array) -> CheckedStep:
        """Return the checked derivatives of step k.

        The adjoints of LinearOperators are tested in the first step and in the last one.
        """
        kept, same = self._kept.pop(k, None), self.backend.all
        if kept is not None and same(kept[0] == h) and same(kept[1] == previous):
            return kept[2]
        self.linearizations += 1
        name, to_user = f"{self.name}.linearize", self.backend.to_user
        with self.backend.user_call(f"{name}(h, previous, theta, {k})"):
            given: Any = self.step.linearize(to_user(h), to_user(previous), to_user(self.theta), k)
        name = f"{name} in step {k}"
        if not isinstance(given, StepLinearization):
            raise ModelError(
                f"{name}: expected it to return an mfdeq.StepLinearization, got "
                f"{type(given).__name__}"
            )
        n, P = self.size, self.param_size
        D, L, B = (
            self._operator(field, getattr(given, field), shape, name, k in (0, self.count - 1))
            for field, shape in (("d_state", (n, n)), ("d_previous", (n, n)), ("d_params", (n, P)))
        )
        return CheckedStep(self.backend, D, L, B, given, name)

    def _operator(
        self, field: str, given: Any, shape: tuple[int, int], name: str, test_adjoint: bool
    ) -> Operator:
        """Return a derivative as an operator, which is that of another step if it is equal."""
        shared = self._shared.setdefault(field, {})
        for known, operator in list(shared.values()):  # which another thread may change
            if given is known and _unchanged(given, operator):
                return operator
        operator = as_operator(
            self.backend, given, shape, f"{field} of {name}", test_adjoint=test_adjoint
        )
        key = fingerprint(operator)
        _, same = shared.pop(key, (None, operator))
        operator = same if have_equal_entries(operator, same) else operator
        shared[key] = given, operator  # the next step may return the same object
        if len(shared) > MAX_SHARED_MATRICES:
            shared.pop(next(iter(list(shared))), None)
        return operator


def _unchanged(given: Any, operator: Operator) -> bool:
    """Return whether an object of the user's still has the entries that it was checked with."""
    array = operator.array
    if given is operator or array is None:
        return True
    if not is_sparse(given):
        return given.shape == array.shape and operator.backend.all(given == array)
    if type(given) is not type(array) or given.nnz != array.nnz:
        return False
    return operator.backend.all(given.data == array.data)

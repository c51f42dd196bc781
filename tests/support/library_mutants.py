"""Plausible mistakes inside the library, each of which replaces one step of a computation."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mfdeq.equilibrium import reduced_hessian as hessian
from mfdeq.equilibrium.equilibrium import Equilibrium
from mfdeq.equilibrium.gradients import EquilibriumWithGradients
from mfdeq.equilibrium.reduced_curvature import ReducedCurvature
from mfdeq.equilibrium.reduced_hessian import ReducedHessian, SecondOrderSlice
from mfdeq.linear import Factor
from mfdeq.models.checked_linearization import CheckedLinearization
from mfdeq.models.curvature import BlockCurvature, ProductCurvature, add_curvatures, scale_curvature
from mfdeq.models.losses import Loss
from mfdeq.models.quadratic_losses import LeastSquares, QuadraticPrior
from mfdeq.operators.matrix_operator import Matrix
from mfdeq.operators.operator import Adjoint, IdentityMinus, Stacked


@dataclass(frozen=True)
class Mutant:
    """A wrong attribute of a class or module, and a case that reveals it."""

    where: Any
    name: str
    wrong: Any
    case: str

    def __str__(self):
        return f"{self.wrong.__name__}-{self.case}"


MUTANTS = []


def mutant(where, name, *cases):
    """Register a function as a mutant; its name says what is wrong."""

    def register(wrong):
        MUTANTS.extend(Mutant(where, name, wrong, case) for case in cases)
        return wrong

    return register


def stacked(upper, lower):
    return np.concatenate([upper, lower])


# Adjoints


@mutant(Adjoint, "_apply", "square")
def adjoint_is_the_operator(self, x):
    return self.of._apply(x)


@mutant(Matrix, "_apply_adjoint", "square")
def matrix_not_transposed(self, y):
    return self.array @ y


@mutant(IdentityMinus, "_apply_adjoint", "smooth-operators")
def identity_minus_not_transposed(self, y):
    return self._apply(y)


solve = Factor._solve_checked  # called by `solve`, `solve_adjoint` and the operator A^-1


@mutant(Factor, "_solve_checked", "smooth", "stiff", "square", "bratu_spectral")
def adjoint_solve_with_A(self, b, rtol=None, adjoint=False, weights=None):
    return solve(self, b, rtol, False, weights)


@mutant(Factor, "_solve_checked", "smooth", "stiff", "square", "bratu_spectral")
def solve_with_the_adjoint_of_A(self, b, rtol=None, adjoint=False, weights=None):
    return solve(self, b, rtol, True, weights)


@mutant(Factor, "_solve_checked", "smooth")
def adjoint_solve_fails_and_returns_zeros(self, b, rtol=None, adjoint=False, weights=None):
    return 0 * b if adjoint else solve(self, b, rtol, False, weights)


# Signs of a residual


linearize = CheckedLinearization.__init__


@mutant(CheckedLinearization, "__init__", "stiff", "diffusion")
def B_of_the_residual(self, *arguments):
    linearize(self, *arguments)
    self.B = -self.B


@mutant(CheckedLinearization, "__init__", "smooth", "stiff")
def J_in_place_of_A(self, *arguments):
    linearize(self, *arguments)
    self.A = Matrix(self.backend, np.eye(self.state_size) - self.A.array)


curvature_of, second_of = CheckedLinearization.curvature, CheckedLinearization.second


@mutant(CheckedLinearization, "curvature", "stiff", "diffusion")
def curvature_of_the_residual(self, w, **options):
    return curvature_of(self, -w, **options)


@mutant(CheckedLinearization, "second", "stiff", "diffusion")
def second_of_the_residual(self, a, b):
    return -second_of(self, a, b)


# The tangent T = [I; Z] and its adjoint


@mutant(Stacked, "_apply", "smooth", "stiff")
def T_without_Z(self, x):
    return stacked(x, 0 * self.lower._apply(x))


@mutant(Stacked, "_apply", "smooth", "stiff")
def T_without_I(self, x):
    return stacked(0 * x, self.lower._apply(x))


@mutant(Stacked, "_apply", "smooth", "stiff")
def T_with_minus_Z(self, x):
    return stacked(x, -self.lower._apply(x))


@mutant(Stacked, "_apply", "square")
def T_swapped(self, x):
    return stacked(self.lower._apply(x), x)


@mutant(Stacked, "_apply_adjoint", "smooth", "stiff")
def T_adjoint_without_Z(self, y):
    return 1 * y[: self.shape[1]]


@mutant(Stacked, "_apply_adjoint", "smooth", "stiff")
def T_adjoint_without_I(self, y):
    return self.lower._apply_adjoint(y[self.shape[1] :])


# The Hessian of the Lagrangian: its parts and its blocks


@mutant(hessian, "add_curvatures", "smooth", "stiff", "square")
def K_without_the_loss(left, right):
    return right


@mutant(hessian, "add_curvatures", "smooth", "stiff", "square")
def K_without_the_dynamics(left, right):
    return left


@mutant(hessian, "add_curvatures", "smooth", "stiff", "square")
def K_minus_the_dynamics(left, right):
    return add_curvatures(left, scale_curvature(right, -1.0))


def in_blocks(product):
    """Register a product with K, written as a function of its blocks and of (u, z)."""

    def apply(self, x):
        blocks = self.params_params, self.state_params, self.state_params.H, self.state_state
        return stacked(*product(*blocks, *self.split(x)))

    apply.__name__ = product.__name__
    mutant(BlockCurvature, "_apply", "smooth", "square")(apply)
    return product


@in_blocks
def K_without_params_params(pp, sp, ps, ss, u, z):
    return ps @ z, sp @ u + ss @ z


@in_blocks
def K_without_params_state(pp, sp, ps, ss, u, z):
    return pp @ u, sp @ u + ss @ z


@in_blocks
def K_without_state_params(pp, sp, ps, ss, u, z):
    return pp @ u + ps @ z, ss @ z


@in_blocks
def K_without_state_state(pp, sp, ps, ss, u, z):
    return pp @ u + ps @ z, sp @ u


@in_blocks
def K_one_sided(pp, sp, ps, ss, u, z):
    return pp @ u + 2 * (ps @ z), ss @ z


@in_blocks
def K_one_sided_the_other_way(pp, sp, ps, ss, u, z):
    return pp @ u, 2 * (sp @ u) + ss @ z


@in_blocks
def K_with_minus_the_mixed_blocks(pp, sp, ps, ss, u, z):
    return pp @ u - ps @ z, ss @ z - sp @ u


@mutant(BlockCurvature, "_apply", "square")
def K_with_mixed_blocks_not_transposed(self, x):
    u, z = self.split(x)
    pp, sp, ss = self.params_params, self.state_params, self.state_state
    return stacked(pp @ u + sp @ z, sp.H @ u + ss @ z)


call = ProductCurvature._call


@mutant(ProductCurvature, "_call", "square-callable", "square-apply")
def callable_given_dh_first(self, x):
    return call(self, stacked(*self.split(x)[::-1]))


@mutant(ProductCurvature, "_call", "square-callable", "square-apply")
def callable_read_dh_first(self, x):
    return stacked(*self.split(call(self, x))[::-1])


# The equilibrium


adjoint, gradient = EquilibriumWithGradients.adjoint, EquilibriumWithGradients.gradient


@mutant(EquilibriumWithGradients, "adjoint", "smooth", "stiff")
def adjoint_state_sign(self, loss):
    return -adjoint(self, loss)


@mutant(EquilibriumWithGradients, "adjoint", "smooth", "stiff")
def adjoint_state_not_solved_for(self, loss):
    return self.loss_gradients(loss)[1]


@mutant(EquilibriumWithGradients, "gradient", "smooth", "square", "affine")
def gradient_without_d_params(self, loss):
    return gradient(self, loss) - self.loss_gradients(loss)[0]


@mutant(EquilibriumWithGradients, "gradient", "smooth", "stiff")
def gradient_without_adjoint(self, loss):
    return self.loss_gradients(loss)[0]


@mutant(Equilibrium, "_second_along", "smooth", "stiff")
def total_curvature_without_Z(self, linearized, u, v):
    zero = self.backend.zeros(self.problem.state_size)
    return linearized.second(stacked(u, zero), stacked(v, zero))


@mutant(Equilibrium, "_second_along", "smooth", "stiff")
def total_curvature_one_direction(self, linearized, u, v):
    T = self.tangent
    return linearized.second(T @ u, T @ u)


@mutant(Equilibrium, "second_order", "smooth", "stiff")
def second_order_not_solved_for(self, u, v):
    return self.total_curvature(u, v)


@mutant(Equilibrium, "component_hessian", "smooth", "stiff")
def component_hessian_of_f(self, w):
    K = self.linearized.curvature(w)
    return ReducedCurvature(self, lambda: K, lambda: K, lambda eq: None)


@mutant(Equilibrium, "component_hessian", "smooth", "stiff")
def component_hessian_by_a_state_solve(self, w):
    K = self.linearized.curvature(self.inverse @ w)
    return ReducedCurvature(self, lambda: K, lambda: K, lambda eq: None)


# The Hessian, its terms, and the slice


reduced_hessian = ReducedHessian.__init__


@mutant(ReducedHessian, "__init__", "smooth", "stiff")
def hessian_with_the_loss_gradient_for_lambda(self, eq, loss):
    reduced_hessian(self, eq, loss)
    self._dynamics_curvature = eq.linearized.curvature(eq.loss_gradients(loss)[1])
    K = add_curvatures(self._loss_curvature, self._dynamics_curvature)
    ReducedCurvature.__init__(self, eq, lambda: K, lambda: K, lambda eq: None)


terms = ReducedHessian.terms.func


@mutant(ReducedHessian, "terms", "smooth", "stiff", "square")
def terms_with_mixed_swapped(self):
    right = terms(self)
    return {
        **right,
        "dynamics_mixed": right["dynamics_mixed_adjoint"],
        "dynamics_mixed_adjoint": right["dynamics_mixed"],
    }


@mutant(ReducedHessian, "terms", "smooth", "square")
def terms_with_loss_and_dynamics_swapped(self):
    swap = {"loss": "dynamics", "dynamics": "loss"}
    return {
        f"{swap[name.partition('_')[0]]}_{name.partition('_')[2]}": term
        for name, term in terms(self).items()
    }


@mutant(ReducedHessian, "dynamics", "smooth", "stiff")
def dynamics_of_the_loss(self):
    return self.gauss_newton


slice_apply, slice_adjoint = SecondOrderSlice._apply, SecondOrderSlice._apply_adjoint


@mutant(SecondOrderSlice, "_apply", "smooth", "stiff")
def slice_not_solved_for(self, x):
    return self.eq.state_operator @ slice_apply(self, x)


@mutant(SecondOrderSlice, "_apply_adjoint", "smooth", "stiff")
def slice_adjoint_not_solved_for(self, y):
    return slice_adjoint(self, self.eq.state_operator.H @ y)


@mutant(SecondOrderSlice, "_apply_adjoint", "square", "stiff")
def slice_adjoint_with_a_state_solve(self, y):
    eq = self.eq
    return slice_adjoint(self, eq.state_operator.H @ (eq.inverse @ y))


# The losses


@mutant(LeastSquares, "curvature_operator", "affine", "diffusion")
def least_squares_curvature_without_weights(self, h, theta):
    return of_least_squares(LeastSquares(self.observe, self.data), h, theta)


@mutant(LeastSquares, "gradients", "affine", "diffusion", "bratu_field")
def least_squares_gradient_without_weights(self, h, theta):
    return least_squares_gradients(LeastSquares(self.observe, self.data), h, theta)


of_least_squares, least_squares_gradients = LeastSquares.curvature_operator, LeastSquares.gradients
prior_gradients = QuadraticPrior.gradients


@mutant(QuadraticPrior, "gradients", "affine", "diffusion")
def prior_gradient_doubled(self, h, theta):
    d_params, d_state = prior_gradients(self, h, theta)
    return 2 * d_params, d_state


loss_gradients = Loss.gradients


@mutant(Loss, "gradients", "square")
def loss_gradients_swapped(self, h, theta):
    return loss_gradients(self, h, theta)[::-1]

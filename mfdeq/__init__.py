"""Equilibria and their matrix-free adjoints and exact Hessians.

For a state h* = f(h*, theta), or R(h*, theta) = 0, and a loss L(h*, theta), mfdeq computes the
gradient, the exact Hessian, its extreme eigenvalues and the second-order response of the state.
Operators are LinearOperators of scipy, or of cupyx for cupy arrays.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "FixedPointModel": "models.model",
    "ResidualModel": "models.model",
    "Linearization": "models.linearization",
    "Curvature": "models.curvature",
    "constrain": "models.constrained",
    "Constraint": "models.constraints",
    "LinearConstraint": "models.linear_constraints",
    "trajectory": "compositions.trajectory",
    "StepModel": "compositions.step_model",
    "StepLinearization": "compositions.step_model",
    "StepCurvature": "compositions.step_model",
    "Start": "compositions.step_model",
    "BatchedEquilibrium": "compositions.batched_equilibrium",
    "TrajectoryEquilibrium": "compositions.trajectory_equilibrium",
    "step_from_function": "derivatives.step_from_function",
    "step_from_jax": "derivatives.step_from_jax",
    "step_from_model": "compositions.step_from_model",
    "implicit_euler": "compositions.time_schemes",
    "trapezoidal": "compositions.time_schemes",
    "bdf2": "compositions.bdf2_scheme",
    "Loss": "models.losses",
    "LeastSquares": "models.quadratic_losses",
    "QuadraticPrior": "models.quadratic_losses",
    "solve": "equilibrium.solve",
    "equilibrium_at": "equilibrium.solve",
    "Equilibrium": "equilibrium.equilibrium",
    "ConstrainedEquilibrium": "equilibrium.constrained_equilibrium",
    "ReducedHessian": "equilibrium.reduced_hessian",
    "Auto": "linear",
    "Direct": "linear",
    "Krylov": "linear",
    "Neumann": "linear",
    "AMG": "linear",
    "ILU": "linear",
    "Jacobi": "linear",
    "Approximate": "linear",
    "FieldSplit": "linear",
    "eigsh": "spectrum.eigsh",
    "Eigenpairs": "spectrum.eigenpairs",
    "randomized_eigsh": "spectrum.randomized",
    "Precision": "priors.precision",
    "LowRank": "spectrum.low_rank",
    "Nystrom": "spectrum.nystrom",
    "spectral_density": "spectrum.spectral_density",
    "SpectralDensity": "spectrum.spectral_density",
    "Estimate": "spectrum.estimate",
    "log_determinant": "spectrum.spectral_density",
    "numerical_rank": "spectrum.spectral_density",
    "trace": "spectrum.traces",
    "frobenius_norm": "spectrum.traces",
    "condition_number": "spectrum.traces",
    "ReducedFunctional": "optimization.reduced_functional",
    "SumFunctional": "optimization.sum_functional",
    "SumHessian": "equilibrium.sum_hessian",
    "SumEquilibrium": "optimization.experiments",
    "follow": "continuation.follow",
    "Branch": "continuation.branch",
    "Study": "studies.study",
    "minimize": "optimization.minimize",
    "Minimum": "optimization.minimum",
    "MinimizeReport": "optimization.minimize_report",
    "from_jax": "derivatives.jax",
    "loss_from_jax": "derivatives.jax",
    "from_torch": "derivatives.torch",
    "loss_from_torch": "derivatives.torch",
    "from_function": "derivatives.function",
    "loss_from_function": "derivatives.function_loss",
    "mixed": "derivatives.mixed",
    "to_jax": "nodes.jax",
    "to_torch": "nodes.torch",
    "torch_layer": "nodes.torch_layer",
    "hessian_of": "nodes.program_hessian",
    "last_error": "nodes.last_error",
    "verify": "verification.verify",
    "Verification": "verification.verify",
    "threads": "parallel",
    "SolveReport": "report",
    "MfdeqError": "errors",
    "ArgumentError": "errors",
    "ModelError": "errors",
    "DomainError": "errors",
    "DerivativeError": "errors",
    "ConvergenceError": "errors",
    "SingularStateError": "errors",
    "OutOfMemoryError": "errors",
    "StudyError": "errors",
    "CheckpointError": "errors",
    "CheckpointWarning": "errors",
    "NearSingularWarning": "errors",
    "AccuracyWarning": "errors",
    "StudyWarning": "errors",
    "WorkerWarning": "errors",
    "SmallestSingular": "equilibrium.smallest_singular",
    "ShiftedInverse": "equilibrium.lagrangian_system",
}

# Packages that are attributes without an import of their own.
_PACKAGES = ("openmdao", "plot", "umbridge")

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module 'mfdeq' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_MODULES, *_PACKAGES, "__version__"])

"""How quantities of an equilibrium change along a direction of the parameters."""

from __future__ import annotations

from ..arrays.backend import Array


class Changes:
    """The changes of quantities of an equilibrium at points to one side of theta.

    Parameters
    ----------
    base : dict of arrays
        The quantities at theta.

    Attributes
    ----------
    steps : list of float
        The distances of the points.
    factors : list of float
        The errors of the states, relative to those that noise at theta explains.
    solve_errors : list of float
        The relative errors of linear solves at the points; 0 where they are as small as at theta.
    """

    def __init__(self, base: dict[str, Array]) -> None:
        self.base = base
        self.steps: list[float] = []
        self.values: list[dict[str, Array]] = []
        self.factors: list[float] = []
        self.solve_errors: list[float] = []

    def add(self, step: float, values: dict[str, Array], factor: float, solve_error: float) -> None:
        """Add a point."""
        self.steps.append(step)
        self.values.append(values)
        self.factors.append(factor)
        self.solve_errors.append(solve_error)

    def remainders(self, name: str, term: Array) -> list[Array]:
        """Return the remainders of a quantity with a derivative."""
        pairs = zip(self.steps, self.values, strict=True)
        return [values[name] - self.base[name] - step * term for step, values in pairs]

    def noises(self, noise: float, size: float) -> list[float]:
        """Return the noise of a quantity of this size at each point, from its noise at theta."""
        pairs = zip(self.factors, self.solve_errors, strict=True)
        return [factor * noise + error * size for factor, error in pairs]

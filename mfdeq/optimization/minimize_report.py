"""What a minimization did and cost, iteration by iteration."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Step:
    """One iteration of `mfdeq.minimize`.

    Attributes
    ----------
    value, gradient_norm : float
        The loss and the norm of its gradient at the end of the step; with bounds, of the gradient
        projected onto them.
    length : float
        Euclidean length of the step in the parameters; 0 where it was rejected.
    inner : int
        Products with the Hessian.
    how : str
        How the step was found, or why it was rejected.
    solves : int
        Linear solves of the whole run by the end of the step.
    seconds : float
        Seconds of the whole run by the end of the step.

    Examples
    --------
    A callback of `mfdeq.minimize` that stops below a loss of 0.1:

    >>> def callback(theta, step):
    ...     return step.value < 0.1
    >>> callback(None, Step(0.05, 1e-3, 0.2, 7, "inside"))
    True
    """

    value: float
    gradient_norm: float
    length: float
    inner: int
    how: str
    solves: int = 0
    seconds: float = 0.0


@dataclass
class MinimizeReport:
    """What a minimization did and cost; ``print`` shows a table of its steps.

    Attributes
    ----------
    method : str
        As it was passed to `mfdeq.minimize`.
    steps : list of Step
        One for each iteration, the start first.
    equilibria : int
        Forward solves, failed ones included.
    rejected : int
        Trial steps at which there is no equilibrium, or the loss did not fall enough.
    gradients : int
        Adjoint gradients.
    products : int
        Products with the Hessian, of two linear solves each.
    factorizations : int
        Factorizations of the Lagrangian system.
    solves : int
        Linear solves, one for each right-hand side, of equilibria, gradients and products.
    seconds : float
        Wall-clock time in seconds.

    Examples
    --------
    >>> import mfdeq
    >>> report = mfdeq.MinimizeReport("newton-cg")
    >>> report.rejected, report.steps
    (0, [])
    """

    method: str = ""
    steps: list[Step] = field(default_factory=list)
    equilibria: int = 0
    rejected: int = 0
    gradients: int = 0
    products: int = 0
    factorizations: int = 0
    solves: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        rows = [
            f"{self.method}: {len(self.steps) - 1} iterations, {self.equilibria} equilibria, "
            f"{self.gradients} gradients, {self.products} products, {self.rejected} rejected "
            f"steps, {self.seconds:.1f} s",
            "     loss            |gradient|  |step|    inner",
        ]
        rows += [
            f"{i:4} {s.value:<15.8g} {s.gradient_norm:<11.2e} {s.length:<9.1e} {s.inner:<5} {s.how}"
            for i, s in enumerate(self.steps)
        ]
        return "\n".join(rows)

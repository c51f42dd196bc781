"""The report of a minimization, with its steps."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..tables import PrintedAsTable, Table


@dataclass
class Step:
    """One iteration of `mfdeq.minimize`.

    Attributes
    ----------
    value, gradient_norm : float
        The loss and the norm of its gradient, in the metric, at the end of the step; with bounds,
        of the projected gradient.
    length : float
        The length of the step in the metric; 0 if it was rejected.
    inner : int
        The number of products with the Hessian.
    how : str
        How the step was computed, or why it was rejected.
    solves : int
        The number of linear solves from the start of the run to the end of the step.
    seconds : float
        The time in seconds from the start of the run to the end of the step.

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
class MinimizeReport(PrintedAsTable):
    """The report of a minimization; ``print`` shows a table of its steps.

    Attributes
    ----------
    method : str
        The method of `mfdeq.minimize`.
    steps : list of Step
        The start, followed by one step for each iteration.
    equilibria : int
        The number of forward solves, including failed ones.
    rejected : int
        The number of rejected trial steps, without an equilibrium or enough decrease of the loss.
    failures : int
        The number of trial points where there was no equilibrium, or where a function of the model
        or the loss raised an exception or returned NaN.
    last_failure : str
        The message of the last of them.
    metric : str
        The metric of gradients and steps: "given", "the prior's precision" or "Euclidean".
    limited_by : str
        Why the gradient is not smaller: its target "gtol", or its own error, "rounding"; empty if
        it did not converge.
    gradients : int
        The number of adjoint gradients.
    products : int
        The number of products with the Hessian, of two linear solves each.
    factorizations : int
        The number of factorizations of the Lagrangian system.
    solves : int
        The number of linear solves for equilibria, gradients and products, one for each right-hand
        side.
    seconds : float
        The wall-clock time in seconds.

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
    failures: int = 0
    last_failure: str = ""
    metric: str = "Euclidean"
    limited_by: str = ""

    def _table(self) -> Table:
        head = (
            f"{self.method}: {len(self.steps) - 1} iterations, {self.equilibria} equilibria, "
            f"{self.gradients} gradients, {self.products} products, {self.rejected} rejected "
            f"steps, {self.seconds:.1f} s"
        )
        columns = {
            "": [str(i) for i in range(len(self.steps))],
            "loss": [f"{step.value:.8g}" for step in self.steps],
            "|gradient|": [f"{step.gradient_norm:.2e}" for step in self.steps],
            "|step|": [f"{step.length:.1e}" for step in self.steps],
            "inner": [str(step.inner) for step in self.steps],
            "how": [step.how for step in self.steps],
        }
        times = f"{self.failures} trial points without a value, the last: {self.last_failure}"
        after = [times] if self.failures else []
        return Table(columns, left=["how"], before=[head], after=after)

"""The cost of a Neumann problem whose mean is fixed, over that of the Dirichlet problem.

    python -m tests.benchmarks.neumann [--cases 256² 64³] [--rounds 5]

Diffusion with a lognormal coefficient on a square or a cube, solved by "auto": the state, its
gradient and a product with the Hessian. Printed are the median user times of the two problems,
which are measured in turn, the median of their ratio, and the mean iterations: of Newton's method
for the state, of a linear solve for the gradient and the product. The target is a ratio of 1.15,
and as many iterations within two.

Each round has another random source. How close to zero the state of a source comes somewhere
decides how many corrections at the end of a solve it takes: of one source, either problem may take
more of them. Which solve pays for a set-up of multigrid depends on the solves before it, so that
the set-up may belong to the state of one problem and to the gradient of the other: their sum is
printed as well.
"""

from __future__ import annotations

import argparse
import resource

import numpy as np

import mfdeq

from .problems import Diffusion, Insulated

CASES = {"256²": (256, 2), "64³": (64, 3), "100³": (100, 3), "1000²": (1000, 2)}
BOUND = 1.15
COSTS = ("state", "gradient", "product")
MAX_MORE_ITERATIONS = 2


def user_seconds() -> float:
    """User time of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


class Problem:
    """A model with its parameters and loss, and the costs of what has been computed."""

    def __init__(self, diffusion: Diffusion, model: mfdeq.ResidualModel) -> None:
        self.model, self.theta, self.loss = model, diffusion.lognormal(), diffusion.loss()
        self.vectors = np.random.default_rng(0).standard_normal((3, diffusion.param_size))
        self.seconds: dict[str, list[float]] = {name: [] for name in COSTS}
        self.iterations: dict[str, list[float]] = {name: [] for name in COSTS}

    def _timed(self, name, function):
        start = user_seconds()
        result = function()
        self.seconds[name].append(user_seconds() - start)
        return result

    def solve(self):
        """Solve for the state and compute the gradient."""
        self.eq = self._timed("state", lambda: mfdeq.solve(self.model, self.theta))
        self.iterations["state"].append(self.eq.report.iterations)
        self._counted("gradient", lambda: self.eq.gradient(self.loss))
        self.H = self.eq.hessian(self.loss)
        self.H @ self.vectors[0]  # adopts the solver of many solves

    def multiply(self):
        """Multiply the Hessian by vectors."""
        for v in self.vectors:
            self._counted("product", lambda v=v: self.H @ v)

    def _counted(self, name, function):
        """Time a function and record the iterations of a linear solve, in the mean."""
        linear = self.eq.report.linear
        before, solves = linear.iterations, linear.solves + linear.adjoint_solves
        self._timed(name, function)
        done = linear.solves + linear.adjoint_solves - solves
        self.iterations[name].append((linear.iterations - before) / done)


def measure(name: str, rounds: int, products: int) -> bool:
    """Print a row for each cost, and return whether all are within the bounds."""
    n, dimension = CASES[name]
    insulated = Insulated(n, dimension)
    dirichlet = Diffusion(n, dimension)
    problems = [Problem(dirichlet, dirichlet), Problem(insulated, insulated.constrained())]
    for seed in range(rounds):
        q = np.random.default_rng(seed).standard_normal(insulated.state_size)
        insulated.source = dirichlet.source = q - q.mean()
        for problem in problems:
            problem.solve()
        for _ in range(products):
            for problem in problems:
                problem.multiply()
    fine = True
    seconds = {cost: np.array([problem.seconds[cost] for problem in problems]) for cost in COSTS}
    for cost, pairs in {**seconds, "both": seconds["state"] + seconds["gradient"]}.items():
        ratio = float(np.median(pairs[1] / pairs[0]))
        first, second = np.median(pairs, axis=1)
        row = f"{name:<7}{cost:<10}{first:>10.3f}{second:>10.3f}{ratio:>8.3f}"
        if cost in COSTS:
            few, many = (float(np.mean(problem.iterations[cost])) for problem in problems)
            row += f"{few:>12.1f}{many:>10.1f}"
            fine &= ratio <= BOUND and many <= few + MAX_MORE_ITERATIONS
        print(row)
    solvers = [problem.eq.report.solver for problem in problems]
    print(f"{name:<7}{'; '.join(dict.fromkeys(solvers))}", flush=True)
    return fine


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["256²", "64³"])
    parser.add_argument("--rounds", type=int, default=3, help="equilibria of each problem")
    parser.add_argument("--products", type=int, default=5, help="times three products with each")
    options = parser.parse_args(arguments)
    print(f"{'':<17}{'Dirichlet':>10}{'Neumann':>10}{'ratio':>8}{'iterations of both':>22}")
    fine = [measure(name, options.rounds, options.products) for name in options.cases]
    print("within the bounds" if all(fine) else "NOT within the bounds")


if __name__ == "__main__":
    main()

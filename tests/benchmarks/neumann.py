"""The cost of a Neumann problem whose mean is fixed, over that of the Dirichlet problem.

    python -m tests.benchmarks.neumann [--cases 256² 64³] [--rounds 5]

Diffusion with a lognormal coefficient on a square or a cube, solved by "auto": the state, its
gradient and a product with the Hessian, and the iterations of the product. User time is measured,
of the two problems in turn, and printed as its mean. The target is a ratio of 1.15, and as many
iterations within two.

Each round has another random source. How close to zero the state of a source comes somewhere
decides how many corrections at the end of a solve it takes: of one source, either problem may take
more of them.
"""

from __future__ import annotations

import argparse
import resource

import numpy as np

import mfdeq

from .problems import Diffusion, Insulated

CASES = {"256²": (256, 2), "64³": (64, 3), "100³": (100, 3), "1000²": (1000, 2)}
BOUND = 1.15
FORMS = {"state": "{:.2f} s", "gradient": "{:.2f} s", "product": "{:.3f} s"}


def user_seconds() -> float:
    """User time of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


class Problem:
    """A model with its parameters and loss, and the costs of what has been computed."""

    def __init__(self, diffusion: Diffusion, model: mfdeq.ResidualModel) -> None:
        self.model, self.theta, self.loss = model, diffusion.lognormal(), diffusion.loss()
        self.vectors = np.random.default_rng(0).standard_normal((3, diffusion.param_size))
        self.seconds: dict[str, list[float]] = {name: [] for name in FORMS}
        self.iterations: list[float] = []

    def _timed(self, name, function):
        start = user_seconds()
        result = function()
        self.seconds[name].append(user_seconds() - start)
        return result

    def solve(self):
        """Solve for the state and compute the gradient."""
        self.eq = self._timed("state", lambda: mfdeq.solve(self.model, self.theta))
        self._timed("gradient", lambda: self.eq.gradient(self.loss))
        self.H = self.eq.hessian(self.loss)
        self.H @ self.vectors[0]  # adopts the solver of many solves

    def multiply(self):
        """Multiply the Hessian by vectors."""
        linear = self.eq.report.linear
        before, solves = linear.iterations, linear.solves + linear.adjoint_solves
        for v in self.vectors:
            self._timed("product", lambda v=v: self.H @ v)
        done = linear.solves + linear.adjoint_solves - solves
        self.iterations.append((linear.iterations - before) / done)


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
    for cost, form in FORMS.items():
        pairs = np.array([problem.seconds[cost] for problem in problems])
        first, second = pairs.mean(axis=1)
        ratio = second / first
        fine &= ratio <= BOUND
        print(f"{name:<7}{cost:<10}{form.format(first):>10}{form.format(second):>10}{ratio:>8.3f}")
    first, second = (float(np.mean(problem.iterations)) for problem in problems)
    fine &= second <= first + 2
    solvers = [problem.eq.report.solver for problem in problems]
    print(f"{name:<7}iterations{first:>10.1f}{second:>10.1f}   {'; '.join(dict.fromkeys(solvers))}")
    return fine


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["256²", "64³"])
    parser.add_argument("--rounds", type=int, default=3, help="equilibria of each problem")
    parser.add_argument("--products", type=int, default=5, help="times three products with each")
    options = parser.parse_args(arguments)
    print(f"{'':<7}{'':<10}{'Dirichlet':>10}{'Neumann':>10}{'ratio':>8}")
    fine = [measure(name, options.rounds, options.products) for name in options.cases]
    print("within the bounds" if all(fine) else "NOT within the bounds")


if __name__ == "__main__":
    main()

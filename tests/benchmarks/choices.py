"""What "auto" costs for one solve and for a hundred, over the best configuration.

Solvers that know the fields of a system, or their mass matrix, are shown beside them. Times are
processor times with the set-up, the least of several runs.
"""

from __future__ import annotations

import math
import time

import numpy as np

from . import saddle_points
from .peers import RTOL
from .systems import System, convection_in_volume, random_graph

MANY = 100
MAX_RATIO = {1: 1.5, MANY: 1.25}


def configurations(system: System) -> dict:
    """The configurations among which "auto" chooses; AMG("air") takes minutes to set up here."""
    from mfdeq.linear import AMG, ILU, Jacobi, Krylov

    method = "cg" if system.symmetric else "gmres"
    return {
        **factorizations(),
        method: Krylov(method),
        f"{method} + Jacobi": Krylov(method, preconditioner=Jacobi()),
        f"{method} + AMG": Krylov(method, preconditioner=AMG()),
        "gmres + ILU": Krylov(preconditioner=ILU()),
    }


def factorizations() -> dict:
    """Those that are installed; one that does not suit a matrix fails."""
    from mfdeq.linear import Direct
    from mfdeq.linear.direct.registry import PACKAGES

    return {package.title: Direct(package=name) for name, package in PACKAGES.items()}


def saddle_point(name: str, size: int, small: bool) -> tuple[System, dict]:
    """A saddle point, and the solvers of which those by fields know more than "auto" does."""
    make, sides = saddle_points.CASES[name]
    found = make(4 if small else sides[size])
    system = System(found.title, found.A.tocsr(), False, 2)
    by_fields = saddle_points.solvers(found)
    del by_fields["auto"]
    return system, {**factorizations(), **by_fields}


def of(system: System) -> tuple[System, dict]:
    """A system and its configurations."""
    return system, configurations(system)


CASES = {
    "convection3d": lambda small: of(convection_in_volume(10 if small else 34)),
    "random-graph": lambda small: of(random_graph(600 if small else 20_000)),
    "stokes-1e4": lambda small: saddle_point("Stokes", 0, small),
    "stokes-1e5": lambda small: saddle_point("Stokes", 1, small),
    "darcy-1e4": lambda small: saddle_point("Darcy", 0, small),
    "darcy-1e5": lambda small: saddle_point("Darcy", 1, small),
}


def seconds(solver, system: System, solves: int) -> np.ndarray:
    """The times of the set-up and of so many solves; infinity if they fail."""
    from mfdeq.errors import MfdeqError
    from mfdeq.linear import operator_of
    from mfdeq.linear.multifrontal import fronts

    fronts.clear_cache()  # the dissection of a pattern belongs to its first set-up
    times = [time.process_time()]
    try:
        factor = solver.setup(operator_of(system.A.copy()))
        times.append(time.process_time())
        for b in np.random.default_rng(0).standard_normal((solves, system.size)):
            factor.solve(b, rtol=RTOL)
            times.append(time.process_time())
    except MfdeqError:
        return np.full(1 + solves, np.inf)
    return np.diff(times)


def rows(name: str, small: bool, runs: int = 3) -> list[str]:
    """A line for each configuration, and the ratios of "auto" without and with a hint."""
    from mfdeq import Auto

    system, solvers = CASES[name](small)
    times: dict[int, dict[str, float]] = {1: {}, MANY: {}}
    for label, solver in solvers.items():
        setup, *solve = np.min([seconds(solver, system, 3) for _ in range(runs)], axis=0)
        for solves, sums in times.items():
            sums[label] = setup + solves * min(solve)
    lines = [f"\n{name}: {system.title}; N = {system.size:,}: s for 1 and for {MANY} solves"]
    lines += [
        f"    {label:<44} {one:9.3f} {times[MANY][label]:9.2f}" for label, one in times[1].items()
    ]
    for solves in times:
        known = [label for label in solvers if "FieldSplit" not in str(solvers[label])]
        best = min(known, key=times[solves].__getitem__)
        for hint in (None, solves):
            taken, least, chosen = math.inf, math.inf, ""
            for _ in range(runs):
                auto = Auto(solves=hint)
                taken = min(taken, seconds(auto, system, solves).sum())
                least = min(least, seconds(solvers[best], system, solves).sum())
                chosen = ", then ".join(text.split(",")[0][8:] for text in auto.choices)
            label = f"Auto({'' if hint is None else f'solves={hint}'}), {solves} solves"
            ratio = taken / least
            bound = MAX_RATIO[solves] if solves == 1 or hint else 2.0
            verdict = "met" if ratio <= bound else "MISSED"
            lines.append(
                f"    {label} ({chosen}) / best ({best}) = {ratio:.2f} "
                f"(target <= {bound:g}: {verdict})"
            )
    return lines

"""Compare linear solvers with their peers on one core, in the way that Hessian products use them.

    python -m tests.benchmarks.linear [--problems NAME ...] [--only FAMILY ...] [--small]
                                      [--blocks K ...] [--seconds S] [--limit S]
                                      [--growth | --saddle-points | --choices]

A product is a solve with A and one with A', each to a true relative residual of 1e-8. The
tolerance of a peer that misses this residual is tightened, that of a peer far below it is
loosened. Times are processor times, medians of rounds in which all take turns; JAX's set-up
excludes compilation. The cost is that of a set-up and 50 single products. The memory is the peak
of a product in vectors of length N per column, where numpy's allocations show it. Only mfdeq's
time includes a check of the true residual.
"""

from __future__ import annotations

import argparse
import math
import os

FAMILIES = ("mfdeq", "petsc", "scipy", "pyamg", "jax", "lineax")
TARGETS = {
    "auto": 1.25,  # the cost of "auto" over the best configuration's
    "column": {2: 1.0, 3: 0.5, 0: 1.0},  # block of 32 over PETSc's best, by dimension
    "single": {2: 1.5},  # single product over PETSc's best
    "block": 0.45,  # an iterative solver's column in a block of 32 over its single product
    "memory": 40.0,
    "growth": 1.1,
    "iterations": 60,  # with a block preconditioner, at 10^5 unknowns
    "iterations grow": 1.3,  # from 10^4 to 10^5 unknowns
}


def one_core() -> None:
    """Keep to one core; before numpy is imported."""
    for library in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def table(rows, blocks) -> list[str]:
    """The rows, aligned, and what has to be said of some."""
    heads = ["set-up s", "single ms", *(f"of {k} ms" for k in blocks)]
    heads += ["iterations", "memory", "cost s", "runs"]
    lines = [f"{'':<26}" + "".join(f"{head:>12}" for head in heads)]
    notes = []
    for row in sorted(rows, key=lambda row: (FAMILIES.index(row.family), row.failed)):
        if row.note:
            notes.append(f"    {row.label}: {row.note}")
        if row.failed:
            continue
        cells = [f"{row.seconds(0):.3f}"]
        cells += [figure(1e3 * row.seconds(k)) for k in (1, *blocks)]
        cells += [row.iterations, figure(row.memory), f"{row.cost:.2f}", str(len(row.samples[1]))]
        lines.append(f"{row.label:<26}" + "".join(f"{cell:>12}" for cell in cells))
    return lines + notes


def figure(value: float) -> str:
    """Three or four digits, or a dash."""
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def best(rows, families, value):
    """The row of these families with the least value, of those that met the residual."""
    from .peers import RTOL

    found = [row for row in rows if row.family in families and not row.failed]
    found = [row for row in found if row.residual <= RTOL and not math.isnan(value(row))]
    return min(found, key=value, default=None)


def verdict(text: str, value: float, bound: float) -> str:
    return f"    {text} {value:.2f} (target <= {bound:g}: {'met' if value <= bound else 'MISSED'})"


def against(rows, title: str, columns: int, bound: float) -> list[str]:
    """The best of this library over PETSc's, at so many columns."""

    def value(row):
        return row.seconds(columns)

    ours, theirs = best(rows, ("mfdeq",), value), best(rows, ("petsc",), value)
    if ours is None or theirs is None:
        return []
    text = f"{title}: {ours.name} / PETSc {theirs.name} ="
    return [verdict(text, value(ours) / value(theirs), bound)]


def targets(system, rows, blocks) -> list[str]:
    """What was aimed at, and whether it is reached."""
    from .peers import RTOL

    lines = []
    ours = [row for row in rows if row.family == "mfdeq" and not row.failed]
    for row in ours:
        if row.name.startswith("auto") and row.residual <= RTOL:
            alike = [other for other in ours if ("products" in other.name) == ("," in row.name)]
            cheapest = best(alike, ("mfdeq",), lambda row: row.cost)
            text = f"cost: {row.name} / best ({cheapest.name}) ="
            lines.append(verdict(text, row.cost / cheapest.cost, TARGETS["auto"]))
    most = max(blocks, default=1)
    if most > 1:
        bound = TARGETS["column"][system.dimension]
        lines += against(rows, f"column in blocks of {most}", most, bound)
    if system.dimension in TARGETS["single"]:
        lines += against(rows, "single product", 1, TARGETS["single"][system.dimension])
    for row in ours:
        iterative = row.iterations not in ("0+0", "-") and not row.name.startswith("auto")
        if most > 1 and iterative and not math.isnan(row.seconds(most)):
            text = f"column of {most} / single, {row.name}:"
            lines.append(verdict(text, row.seconds(most) / row.seconds(1), TARGETS["block"]))
    known = [row for row in ours if not math.isnan(row.memory)]
    if known:
        worst = max(known, key=lambda row: row.memory)
        lines.append(verdict(f"memory, {worst.name}:", worst.memory, TARGETS["memory"]))
    return lines


def problem(name: str, options) -> None:
    """Race on one system, and print."""
    from .peers import peers
    from .race import race
    from .systems import SYSTEMS

    try:
        system = SYSTEMS[name](options.small)
    except ImportError as error:
        print(f"\n{name}: skipped ({error})")
        return
    entrants, absent = peers(system, options.only)
    rows = race(
        system,
        entrants,
        options.blocks,
        options.seconds,
        options.limit,
        isolated=not options.small,
    )
    kind = "symmetric" if system.symmetric else "not symmetric"
    print(f"\n{name}: {system.title}; N = {system.size:,}, {system.A.nnz:,} entries, {kind}")
    print("\n".join(table(rows, options.blocks)))
    for line in absent:
        print(f"    absent: {line}")
    print("\n".join(targets(system, rows, options.blocks)), flush=True)


def growth(options) -> None:
    """How the time of a single product grows with N, for the best of AMG and for "auto"."""
    import numpy as np

    from .peers import peers
    from .race import race
    from .systems import diffusion

    sizes = {2: (64, 128, 256, 512, 1024), 3: (32, 48, 64, 100)}
    if options.small:
        sizes = {2: (16, 32), 3: (6, 10)}
    for dimension, sides in sizes.items():
        taken: dict[str, list] = {"CG + AMG": [], "auto": []}
        print(f"\ndiffusion in {dimension} dimensions: ms of a single product (iterations)")
        for side in sides:
            system = diffusion(side, dimension)
            entrants = [peer for peer in peers(system, ["mfdeq"])[0] if peer.name in taken]
            rows = race(system, entrants, (), options.seconds, options.limit, not options.small)
            for row in rows:
                taken[row.name].append((system.size, row.seconds(1)))
            cells = (f"{row.name} {1e3 * row.seconds(1):9.2f} ({row.iterations})" for row in rows)
            print(f"    N = {system.size:>9,}   " + "   ".join(cells), flush=True)
        for name, pairs in taken.items():
            n, seconds = np.log(np.transpose(pairs))
            exponent = np.polyfit(n, seconds, 1)[0]
            print(verdict(f"{name}: as N to the power", exponent, TARGETS["growth"]))


def saddle_points(options) -> None:
    """Iterations and times of block preconditioners for saddle points, and those of "auto"."""
    import time

    import numpy as np

    from .peers import RTOL
    from .saddle_points import CASES, solvers

    for name, (make, sides) in CASES.items():
        taken: dict[str, list[int]] = {}
        for side in (4, 8) if options.small else sides:
            system = make(side)
            b = np.random.default_rng(0).standard_normal(system.A.shape[0])
            print(f"\n{system.title}; N = {b.size:,}: s of set-up and solves, and iterations")
            for label, solver in solvers(system).items():
                start = time.process_time()
                factor = solver.setup(system.A)
                ready = time.process_time()
                x, y = factor.solve(b, rtol=RTOL), factor.solve_adjoint(b, rtol=RTOL)
                end = time.process_time()
                off = max(np.linalg.norm(system.A @ z - b) for z in (x, y)) / np.linalg.norm(b)
                assert off <= 10 * RTOL, (label, off)
                iterations = factor.counts.iterations
                print(
                    f"    {label:<44} {ready - start:7.2f} {end - ready:7.2f} {iterations / 2:7g}"
                )
                if label == "auto":
                    print(f"        {factor.name}")
                else:
                    taken.setdefault(label, []).append(iterations / 2)
        for label, (fewer, more) in taken.items():
            print(verdict(f"{name}, {label}: iterations", more, TARGETS["iterations"]))
            growth = f"{name}, {label}: growth of iterations with N"
            print(verdict(growth, more / fewer, TARGETS["iterations grow"]))


def main(arguments: list[str] | None = None) -> None:
    from . import choices
    from .systems import SYSTEMS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--small", action="store_true", help="small sizes, in this process")
    parser.add_argument("--blocks", nargs="*", type=int, help="columns (8 and 32; small: 4)")
    parser.add_argument("--seconds", type=float, help="of rounds per problem (20; small: 0.1)")
    parser.add_argument("--limit", type=float, help="seconds of a peer's step (120; small: 5)")
    parser.add_argument("--growth", action="store_true", help="the growth with N alone")
    parser.add_argument("--saddle-points", action="store_true", help="saddle points alone")
    parser.add_argument("--choices", action="store_true", help='"auto" for 1 and 100 solves alone')
    options = parser.parse_args(arguments)
    if options.seconds is None:
        options.seconds = 0.1 if options.small else 20.0
    if options.limit is None:
        options.limit = 5.0 if options.small else 120.0
    if options.blocks is None:
        options.blocks = [4] if options.small else [8, 32]
    print(__doc__.split("\n\n")[2])
    if options.growth or options.saddle_points:
        growth(options) if options.growth else saddle_points(options)
        return
    if not options.choices:
        for name in options.problems:
            problem(name, options)
    if options.choices or options.problems == list(SYSTEMS):
        for name in choices.CASES:
            print("\n".join(choices.rows(name, options.small)), flush=True)


if __name__ == "__main__":
    one_core()
    main()

"""The fold diagram of Bratu's equation: both branches, their stability and their sensitivities.

Δu + λ eᵘ = 0 on the unit square, the model of bratu.py, has two solutions below a fold. Both lie on
one curve, which is followed from the lower branch around the fold and back on the upper one. At
its points are computed the eigenvalues of A = −Δ − λ eᵘ, one of which changes sign at the fold, and
the first two derivatives of u at the centre with respect to λ, which have a pole there.

    python examples/bratu_diagram.py                # 49 × 49, seconds
    python examples/bratu_diagram.py --size small   # 17 × 17
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from bratu import DIRECTION, START, Bratu, ToRounding, find_fold, follow_branch, parser, say

import mfdeq
from mfdeq import plot

# The eigenvalues nearest to zero are computed; on the upper branch the negative one is far from it.
EIGENVALUES = 24
TABLE_ROWS = 12


class Place(NamedTuple):
    """A point of the curve: u at the centre, its derivatives, and the eigenvalues of A."""

    lam: float
    height: float
    slope: float  # du/dλ
    bend: float  # d²u/dλ²
    eigenvalues: np.ndarray  # of A, the lowest first
    unstable: int
    error: float  # relative difference between dh/dλ and the tangent of the curve


def places(bratu: Bratu, branch: mfdeq.Branch) -> list[Place]:
    """Compute the derivatives at the points of the branch, except at the fold, where none exist."""
    found = []
    for point in branch.points:
        if point.kind == "fold":
            continue
        eq = mfdeq.equilibrium_at(bratu, branch.params + point.t, point.state)
        z, h2 = eq.sensitivity @ DIRECTION, eq.second_order(DIRECTION, DIRECTION)
        error = np.linalg.norm(point.tangent / point.slope - z) / np.linalg.norm(z)
        centre = (bratu.at_centre(of) for of in (point.state, z, h2))
        lowest = np.sort(point.eigenvalues.real)
        found.append(Place(START + point.t, *centre, lowest, point.unstable, error))
    return found


def draw(path: Path, bratu: Bratu, branch: mfdeq.Branch, along: list[Place]) -> None:
    """Save the figure: the branches, and derivatives and eigenvalues over the same u."""
    from matplotlib import pyplot as plt

    fold = find_fold(bratu, branch)
    n, top = round(bratu.state_size**0.5), bratu.at_centre(fold.u)
    height, slope, bend = (
        np.array([getattr(place, name) for place in along]) for name in ("height", "slope", "bend")
    )
    lowest = np.array([place.eigenvalues[:3] for place in along])
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 11, "axes.titleweight": "bold"})
    fig, axes = plt.subplots(1, 3, figsize=(14, 5), sharey=True, layout="constrained")
    fig.get_layout_engine().set(w_pad=0.1, h_pad=0.08)

    ax = plot.branch(branch, bratu.at_centre, axes[0], parameter=0)
    ax.set_title(f"The branches, {n} × {n}", loc="left")
    ax.set(xlabel=r"$\lambda$", ylabel="$u$ at the centre", xlim=(0, 8), ylim=(0, None))
    beside = {"textcoords": "offset points", "va": "center", "ha": "right"}
    ax.annotate(f"$\\lambda_c$ = {fold.lam:.5f}", (fold.lam, top), (-10, 0), **beside)

    ax, pieces = axes[1], (height < top, height > top)
    for values, colour, label in (
        (slope, "C0", r"$du/d\lambda$"),
        (bend, "C3", r"$d^2u/d\lambda^2$"),
    ):
        for piece in pieces:  # no line through the pole
            ax.plot(values[piece], height[piece], ".-", color=colour, ms=4, lw=1, label=label)
            label = None
    ax.set_xscale("symlog", linthresh=0.1, linscale=0.7)
    ax.set_title("Sensitivities of the centre", loc="left")
    ax.set(xlabel="derivative with respect to λ")

    ax = axes[2]
    ax.plot(
        lowest[:, 1:], height, color="0.6", lw=1, label=["the next two, equal by symmetry", None]
    )
    ax.plot(lowest[:, 0], height, ".-", color="C2", ms=4, lw=1, label="the lowest")
    ax.set_title("Eigenvalues of A", loc="left")
    ax.set(xlabel="eigenvalue")
    for ax in axes[1:]:
        ax.axvline(0, color="0.7", lw=0.8, zorder=0)
        ax.axhline(top, color="0.5", ls=":", lw=1, label="fold")
        ax.legend(frameon=False)
    fig.savefig(path, dpi=120)
    plt.close(fig)


HEADER = "     λ        u_c       u_c'        u_c''  lowest eigenvalues  unstable"


def line(place: Place) -> str:
    """Return a line of the table under `HEADER`."""
    first, second = place.eigenvalues[:2]
    return (
        f"{place.lam:8.4f}  {place.height:7.4f}  {place.slope:9.2e}  {place.bend:9.2e}  "
        f"{first:9.3f}  {second:8.3f}  {place.unstable:8}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Follow the curve, differentiate along it, and plot both."""
    options = parse(arguments)
    begin = time.perf_counter()
    bratu = Bratu(options.size)
    branch = follow_branch(ToRounding(options.size), EIGENVALUES)
    along, fold = places(bratu, branch), find_fold(bratu, branch)
    say(
        "Curve",
        f"{len(branch.points)} points from λ = {START:g} around the fold and back, "
        f"{branch.counts.setups} factors, {branch.counts.solves} solves",
        HEADER,
        *(line(place) for place in along[:: max(1, len(along) // TABLE_ROWS)]),
    )
    say(
        "Fold",
        f"λ_c = {fold.lam:.10f} (the continuum: 6.80812), u_c = {bratu.at_centre(fold.u):.8f}",
    )
    say(
        "Two ways",
        "dh/dλ by eq.sensitivity agrees with the tangents of the curve to "
        f"{max(place.error for place in along):.0e}",
    )
    if options.figure:
        draw(options.output, bratu, branch, along)
        say("Figure", str(options.output))
    say("Time", f"{time.perf_counter() - begin:.1f} s in all")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    return parser(__doc__, "bratu_diagram.png").parse_args(arguments)


if __name__ == "__main__":
    main()

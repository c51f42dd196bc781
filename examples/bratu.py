"""Bratu's equation near its fold: derivatives that grow, and what the library reports there.

Δu + λ eᵘ = 0 on the unit square, u = 0 on the boundary, by the five-point stencil on n × n inner
points, n odd. There are two solutions below the fold λ_c and none above. The branch is followed
around the fold, which locates it; then the lower solution is computed ever closer to the fold. As
σ_min(A) → 0, the derivatives of u at the centre with respect to λ grow like 1/σ_min and 1/σ_min³.
The example bratu_diagram.py shows them along both branches.

    python examples/bratu.py                # 49 × 49, seconds
    python examples/bratu.py --size small   # 17 × 17
"""

from __future__ import annotations

import argparse
import textwrap
import time
import warnings
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

import mfdeq
from mfdeq import plot

START = 1.0  # λ at both ends of the branch
POINTS = {"small": 17, "full": 49}
GAPS = [10.0**-k for k in range(1, 9)]  # λ_c − λ
SMALLEST_GAPS = [1e-9, 1e-10, 1e-11]
GAPS_BEYOND = [-1e-8, -1e-2]
MAX_ERROR = 0.1  # estimated relative error above which a number is marked
DIRECTION = np.ones(1)  # the parameter is λ alone


# --- the model -----------------------------------------------------------------------------------


class Bratu(mfdeq.ResidualModel):
    """R(u, λ) = −Δu − λ eᵘ at n × n inner points; A = −Δ − λ eᵘ is symmetric."""

    param_size = 1

    def __init__(self, n: int):
        second = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)) * (n + 1) ** 2
        self.minus_laplacian = sp.kronsum(second, second, format="csr")
        self.state_size = n * n
        self.centre = n * n // 2

    def residual(self, u: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Return R(u, λ)."""
        return self.minus_laplacian @ u - theta * np.exp(u)

    def linearize(self, u: np.ndarray, theta: np.ndarray) -> mfdeq.Linearization:
        """Return the derivatives of R."""
        heat = np.exp(u)

        def curvature(w: np.ndarray) -> mfdeq.Curvature:
            return mfdeq.Curvature(
                state_params=-(w * heat)[:, None],
                state_state=sp.diags_array(-w * theta * heat, format="csr"),
            )

        def second(a, b):
            (a_lam, a_u), (b_lam, b_u) = a, b
            return -heat * (a_lam * b_u + b_lam * a_u + theta * a_u * b_u)

        return mfdeq.Linearization(
            d_state=self.minus_laplacian - sp.diags_array(theta * heat, format="csr"),
            d_params=-heat[:, None],
            curvature=curvature,
            second=second,
        )

    def height(self) -> mfdeq.Loss:
        """Return the loss L = u at the centre."""
        e = np.eye(1, self.state_size, self.centre)[0]
        return mfdeq.Loss(lambda u, theta: self.at_centre(u), d_state=lambda u, theta: e)

    def at_centre(self, u: np.ndarray) -> float:
        """Return u at the centre."""
        return u[self.centre]


class ToRounding(Bratu):
    """The same model, solved down to rounding, to compute λ_c to its last digits."""

    def residual_scale(self, u: np.ndarray, theta: np.ndarray) -> float:
        """Return 0, so that only rounding limits the residual."""
        return 0.0


# --- the branch, its fold, and the approach ------------------------------------------------------


def follow_branch(bratu: Bratu, eigenvalues: int = 0) -> mfdeq.Branch:
    """Follow the solutions from the lower branch around the fold and back on the upper one."""
    start, span = np.array([START]), (0.0, 7.0)
    return mfdeq.follow(bratu, start, span=span, longest=0.12, eigenvalues=eigenvalues)


class Fold(NamedTuple):
    """The fold of the branch, and the limits of the scaled derivatives at the centre."""

    lam: float
    u: np.ndarray
    slope: float  # lim du/dλ · σ_min
    bend: float  # lim d²u/dλ² · σ_min³
    turn: float  # dλ/ds there, zero up to rounding


def find_fold(bratu: Bratu, branch: mfdeq.Branch) -> Fold:
    """Return the fold of the branch, and the limits there.

    At the fold, the tangent du/ds of the branch is the null vector φ of A. With |φ| = 1, A⁻¹ is
    φ φᵀ / σ_min to leading order, and A u' = eᵘ, A u'' = eᵘ (2 u' + λ u'²) give the limits.
    """
    (fold,) = branch.folds
    u, lam = fold.state, START + fold.t
    phi, heat = fold.tangent / np.linalg.norm(fold.tangent), np.exp(u)
    push, top = phi @ heat, phi[bratu.centre]
    return Fold(lam, u, top * push, top * push**2 * lam * (phi**3 @ heat), fold.slope)


class Row(NamedTuple):
    """A point of the lower branch: u at the centre, its derivatives, and their accuracy."""

    gap: float  # λ_c − λ
    eq: mfdeq.Equilibrium
    height: float
    slope: float  # du/dλ
    bend: float  # d²u/dλ²
    sigma: float
    digits_left: float  # in A⁻¹
    error: float  # the library's estimate of the relative error of d²u/dλ²
    disagreement: tuple[float, float]  # relative: gradient and Z, Hessian and h''


def differentiate(eq: mfdeq.Equilibrium, gap: float) -> Row:
    """Compute the derivatives at the centre in two ways."""
    centre, loss = eq.model.centre, eq.model.height()
    z, h2 = eq.sensitivity @ DIRECTION, eq.second_order(DIRECTION, DIRECTION)
    (gradient,) = eq.gradient(loss)
    (curved,), (error,) = eq.hessian(loss).with_error(DIRECTION)
    off = abs(gradient / z[centre] - 1), abs(curved / h2[centre] - 1)
    sigma, digits, u = eq.smallest_singular.value, eq.report.digits_left, eq.state[centre]
    return Row(gap, eq, u, z[centre], h2[centre], sigma, digits, abs(error / curved), off)


def predict(eq: mfdeq.Equilibrium, lam: float) -> np.ndarray:
    """Extrapolate the state to the next λ, to second order."""
    step = lam - eq.params
    return eq.state + eq.sensitivity @ step + eq.second_order(step, step) / 2


# --- figure --------------------------------------------------------------------------------------


def draw(path: Path, bratu: Bratu, branch: mfdeq.Branch, fold: Fold, rows: list[Row]) -> None:
    """Save the figure: the branches, the state, growth over σ_min, and accuracy."""
    from matplotlib import colors
    from matplotlib import pyplot as plt

    n, top = round(bratu.state_size**0.5), fold.u[bratu.centre]
    gap, height, slope, bend, sigma, error, digits = (
        np.array([getattr(row, name) for row in rows])
        for name in ("gap", "height", "slope", "bend", "sigma", "error", "digits_left")
    )
    half = len(rows) // 2
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 11, "axes.titleweight": "bold"})
    fig = plt.figure(figsize=(12, 9), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    above, below = fig.subfigures(2, 1)
    dots = {"c": np.log10(gap), "cmap": "plasma", "zorder": 3, "s": 36}
    dots |= {"edgecolors": np.where(error > MAX_ERROR, "crimson", "k"), "linewidths": 0.7}

    ax = plot.branch(branch, bratu.at_centre, above.add_subplot(121), parameter=0)
    ax.text(fold.lam - 0.2, top, f"fold, $\\lambda_c$ = {fold.lam:.5f}", ha="right", va="center")
    ax.text(3.6, 0.55, "lower branch", ha="center")
    ax.text(3.6, 4.2, "upper branch", ha="left")
    ax.set_title(f"Both branches, {n} × {n}", loc="left")
    ax.set(xlabel=r"$\lambda$", ylabel="$u$ at the centre", xlim=(0, 7.4), ylim=(0, None))
    ax.get_legend().remove()
    near = ax.inset_axes([0.11, 0.27, 0.33, 0.2])
    near.loglog(gap, (top - height[half]) * (gap / gap[half]) ** 0.5, "0.6", lw=1)
    near.scatter(gap, top - height, **dots)
    title = r"$u$ below the fold's $\propto(\lambda_c-\lambda)^{1/2}$"
    near.set_title(title, size=8, weight="normal")
    near.set_xlabel(r"$\lambda_c-\lambda$", labelpad=1, size=8)
    near.tick_params(labelsize=7)

    ax = above.add_subplot(122, projection="3d")
    last = ([row for row in rows if row.error < MAX_ERROR] or rows)[-1].eq
    u, z = (np.pad(x.reshape(n, n), 1) for x in (last.state, last.sensitivity @ DIRECTION))
    norm, cmap = colors.Normalize(0, z.max()), plt.get_cmap("magma")
    faces = (z[:-1, :-1] + z[1:, :-1] + z[:-1, 1:] + z[1:, 1:]) / 4
    x, y = np.meshgrid(*2 * [np.linspace(0, 1, n + 2)])
    painted = {"facecolors": cmap(norm(faces)), "shade": False, "antialiased": False}
    ax.plot_surface(x, y, u, rstride=1, cstride=1, **painted)
    ax.view_init(elev=28, azim=-55)
    ax.set_box_aspect((1, 1, 0.62), zoom=1.1)
    ax.set(xlabel="$x$", ylabel="$y$", zlabel="$u$")
    ax.set_title(f"The state, {fold.lam - last.params[0]:.0e} below the fold", loc="left")
    mappable = plt.cm.ScalarMappable(norm, cmap)
    above.colorbar(mappable, ax=ax, shrink=0.6, pad=0.1, label=r"$du/d\lambda$")

    ax = below.add_subplot(121)
    curved, sloped = r"$d^2u/d\lambda^2$", r"$du/d\lambda$"
    fine = np.geomspace(sigma.max(), sigma.min())
    ax.loglog(fine, fold.bend / fine**3, "C3", label=rf"{fold.bend:.1f} / $\sigma_\min^3$")
    ax.loglog(fine, fold.slope / fine, "C0", label=rf"{fold.slope:.2f} / $\sigma_\min$")
    ax.scatter(sigma, bend, marker="s", **dots)
    ax.scatter(sigma, slope, marker="o", **dots)
    beside = {"textcoords": "offset points", "ha": "right", "size": 11}
    ax.annotate(curved, (sigma[half], bend[half]), (-10, 4), color="C3", **beside)
    ax.annotate(sloped, (sigma[half], slope[half]), (-2, 12), color="C0", **beside)
    ax.invert_xaxis()
    ax.set_title("Growth of the centre's derivatives", loc="left")
    ax.set(xlabel=r"$\sigma_\min(A)$; the fold is to the right")
    ax.legend(loc="upper left", frameon=False, title="theory")

    ax = below.add_subplot(122)
    ax.loglog(
        sigma,
        abs(bend * sigma**3 / fold.bend - 1),
        "C3s-",
        label=f"{curved}: off its limit",
    )
    ax.loglog(sigma, abs(slope * sigma / fold.slope - 1), "C0o-", label=f"{sloped}: off its limit")
    ax.loglog(sigma, error, "kD--", mfc="w", label=f"estimated error of {curved}")
    ax.loglog(sigma, 10**-digits, "0.6", ls=":", lw=2, label=r"$10^{-\mathtt{digits\_left}}$")
    ax.axhline(1, color="crimson", lw=0.8)
    ax.text(sigma[0], 1.3, "no digits left", color="crimson", va="bottom")
    ax.invert_xaxis()
    ax.set_title("Distance to theory, and accuracy", loc="left")
    ax.set(xlabel=r"$\sigma_\min(A)$", ylabel="relative error", ylim=(None, 30))
    ax.legend(loc="center left", bbox_to_anchor=(0, 0.52), frameon=False)
    fig.savefig(path, dpi=120)
    plt.close(fig)


# --- main program --------------------------------------------------------------------------------


def say(topic: str, *lines: str) -> None:
    """Print a topic and the lines that belong to it."""
    for head, line in zip_longest([topic], lines, fillvalue=""):
        print(f"{head:<14}{line}", flush=True)


HEADER = (
    "   λ_c − λ  steps     u_c         u_c'       u_c''      σ_min"
    "    u_c'·σ  u_c''·σ³  digits left  error of u_c''"
)


def line(row: Row) -> str:
    """Return a line of the table under `HEADER`."""
    sigma, mark = row.sigma, " *" if row.error > MAX_ERROR else ""
    return (
        f"{row.gap:10.0e} {row.eq.report.iterations:5}  {row.height:10.8f}  {row.slope:9.3e}  "
        f"{row.bend:9.3e}  {sigma:9.3e}  {row.slope * sigma:8.5f}  {row.bend * sigma**3:8.3f}  "
        f"{row.digits_left:11.1f}  {row.error:14.0e}{mark}"
    )


def refusal(gap: float, error: mfdeq.MfdeqError) -> str:
    """Return the message of the error in place of a line of the table."""
    message = textwrap.wrap(f"{type(error).__name__}: {error}", 95)
    return f"{gap:10.0e}  " + "\n            ".join(message)


def main(arguments: list[str] | None = None) -> None:
    """Find the fold, approach it in a table, and try to go beyond it."""
    warnings.simplefilter("ignore", mfdeq.NearSingularWarning)  # the table shows it
    options = parse(arguments)
    begin = time.perf_counter()
    n = options.size
    bratu = Bratu(n)

    branch = follow_branch(ToRounding(n))
    fold = find_fold(bratu, branch)
    say(
        "Fold",
        f"λ_c = {fold.lam:.10f}, u = {fold.u[bratu.centre]:.8f} at the centre, {n} × {n} inner "
        "points (λ_c of the continuum: 6.80812);",
        f"one of {len(branch.points)} points of the branch; dλ/ds = {fold.turn:.0e} there",
    )

    rows: list[Row] = []

    def attempt(gap: float, start: np.ndarray | None, at: Callable = mfdeq.solve, **how) -> None:
        try:
            row = differentiate(at(bratu, np.array([fold.lam - gap]), start, **how), gap)
        except mfdeq.MfdeqError as error:
            print(refusal(gap, error), flush=True)
        else:
            print(line(row), flush=True)
            if gap > 0:
                rows.append(row)

    def approach(gaps: list[float]) -> None:
        for gap in gaps:
            start = predict(rows[-1].eq, fold.lam - gap) if rows else None
            attempt(gap, start, rtol=options.rtol)

    say("Lower branch", "u_c at the centre and its derivatives; error of u_c'' by H.with_error")
    print(HEADER)
    approach(GAPS)
    print(f"{'theory':>10}{'':50}{fold.slope:8.5f}  {fold.bend:8.3f}")
    if not rows:
        return
    worst = np.max([row.disagreement for row in rows], axis=0)
    say(
        "Two ways",
        f"eq.gradient agrees with eq.sensitivity to {worst[0]:.0e}, eq.hessian with "
        f"eq.second_order to {worst[1]:.0e};",
        "they share h* and A⁻¹, whose accuracy the columns on the right show",
    )

    say("Closer", "still below the fold")
    approach(SMALLEST_GAPS)
    last = rows[-1].eq.state
    say("At the fold", "from the last state, and given the state at the fold")
    attempt(0.0, last, rtol=options.rtol)
    attempt(0.0, fold.u, mfdeq.equilibrium_at)
    say("Beyond", "where there is no solution")
    for gap in GAPS_BEYOND:
        attempt(gap, last, rtol=options.rtol)
    say("*", "error of 10 % or more, although ‖R‖ met its target: λ is indistinguishable from λ_c")

    if options.figure:
        draw(options.output, bratu, branch, fold, rows)
        say("Figure", str(options.output))
    say("Time", f"{time.perf_counter() - begin:.1f} s in all")


def parser(text: str, figure: str) -> argparse.ArgumentParser:
    """Return a parser of the size and of the file of the figure."""

    def size(text: str) -> int:
        points = POINTS.get(text) or int(text)
        if points % 2 == 0 or not 17 <= points <= 129:
            raise argparse.ArgumentTypeError(f"{points}; an odd number, 17 to 129, was expected")
        return points

    found = argparse.ArgumentParser(description=text.split("\n\n")[0])
    points = f"{', '.join(POINTS)}, or an odd number of inner points from 17 to 129"
    found.add_argument("--size", type=size, default="full", help=f"{points} (default: full)")
    found.add_argument("--output", type=Path, default=figure, help="file of the figure")
    found.add_argument("--no-figure", dest="figure", action="store_false", help="table only")
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    found = parser(__doc__, "bratu.png")
    found.add_argument("--rtol", type=float, help="of the forward solves (default: automatic)")
    return found.parse_args(arguments)


if __name__ == "__main__":
    main()

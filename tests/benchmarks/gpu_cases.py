"""The problems of the GPU benchmark, in full and small sizes."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import mfdeq

CASES = {  # name: what it is, and its size in full and in small
    "1024²": ("diffusion", {"full": (1024, 2), "small": (24, 2)}),
    "4096²": ("diffusion", {"full": (4096, 2), "small": (32, 2)}),
    "128³": ("diffusion", {"full": (128, 3), "small": (8, 3)}),
    "256³": ("diffusion", {"full": (256, 3), "small": (9, 3)}),
    "convection": ("convection", {"full": 2048, "small": 24}),
    "terrain": ("terrain", {"full": (344, 8), "small": (40, 2)}),
}


class Problem(NamedTuple):
    """What is solved, on the arrays of one library."""

    model: mfdeq.ResidualModel
    theta: Any
    loss: mfdeq.LeastSquares
    start: Any  # None is the model's own
    solver: mfdeq.Krylov

    def direction(self):
        """A random v, the same on all machines."""
        return self.block(None, seed=0)

    def block(self, columns: int | None, seed: int = 1):
        """Random directions."""
        size = self.model.param_size
        shape = size if columns is None else (size, columns)
        return self.model.xp.asarray(np.random.default_rng(seed).standard_normal(shape))


@dataclass(frozen=True)
class Case:
    """One of the problems.

    Attributes
    ----------
    name : str
        Of `CASES`.
    sizes : str
        "full" or "small".
    """

    name: str
    sizes: str

    @property
    def kind(self) -> str:
        """ "diffusion", "convection" or "terrain"."""
        return CASES[self.name][0]

    @property
    def size(self) -> Any:
        return CASES[self.name][1][self.sizes]

    @property
    def title(self) -> str:
        if self.kind == "diffusion":
            n, dimension = self.size
            stencil, power = {2: ("five-point", "²"), 3: ("seven-point", "³")}[dimension]
            return f"{stencil} diffusion {n}{power}"
        if self.kind == "convection":
            return f"convection–diffusion {self.size}²"
        rows, factor = self.size
        return f"terrain, {rows} rows refined by {factor}"

    @property
    def unknowns(self) -> int:
        """N, of the terrain as far as it is known before it is loaded."""
        if self.kind == "diffusion":
            n, dimension = self.size
            return n**dimension
        if self.kind == "convection":
            return self.size**2
        rows, factor = self.size
        return rows * round(rows * 403 / 344) * factor**2

    def build(self, xp=np) -> Problem:
        """The problem, made on the host and moved to where xp's arrays are."""
        return {"diffusion": _diffusion, "convection": _convection, "terrain": _terrain}[self.kind](
            self.size, xp
        )


def _diffusion(size, xp) -> Problem:
    from .problems import Diffusion

    model = Diffusion(*size, xp)
    solver = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())
    return Problem(model, model.lognormal(), _observed(model), None, solver)


def _convection(n, xp) -> Problem:
    from .problems import Convection

    model = Convection(n, xp)
    solver = mfdeq.Krylov("gmres", preconditioner=mfdeq.AMG("air"))
    return Problem(model, model.lognormal(), _observed(model), None, solver)


def _observed(model) -> mfdeq.LeastSquares:
    return model.loss(min(500, model.state_size // 4))


def _terrain(size, xp) -> Problem:
    """Groundwater, from the state of the coarser cells that were measured."""
    from scipy.ndimage import zoom

    rows, factor = size
    example, measured, depth = _measured(rows)
    terrain = example.refine(measured, factor)
    model = example.Groundwater(terrain, xp=xp)
    theta = xp.full(model.param_size, np.log(example.CONDUCTIVITY))
    streams = xp.asarray(example.streams(measured, terrain))
    loss = mfdeq.LeastSquares(streams, model.surface[streams])
    deep = zoom(depth, factor, order=1, mode="nearest", grid_mode=True)
    start = model.surface - xp.asarray(deep.ravel())
    amg = mfdeq.AMG("smoothed_aggregation", levels="float32")
    return Problem(model, theta, loss, start, mfdeq.Krylov("gmres", preconditioner=amg))


@functools.cache
def _measured(rows: int):
    """The example, its terrain, and the depth of the water in its own cells."""
    from .systems import example_named

    example = example_named("groundwater")
    measured = example.load_terrain(rows)
    model = example.Groundwater(measured)
    eq = mfdeq.solve(model, np.full(model.param_size, np.log(example.CONDUCTIVITY)))
    return example, measured, (model.surface - eq.state).reshape(measured.elevation.shape)

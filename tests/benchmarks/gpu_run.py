"""Measure one problem of the GPU benchmark in a process of its own.

The process writes its figures as JSON after each measurement, so that they survive a failure. What
fails by itself (a block that does not fit, for example) is listed under "failed".
"""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import time
from pathlib import Path
from unittest import mock

import numpy as np

import mfdeq

from .gpu_cases import Case
from .gpu_traffic import counted, fine_products

TOLERANCE = 1e-8  # true relative residual of the solves of what is timed, as for all peers
PATIENCE = 4.0  # seconds for the repeats of one timing
MOST, TOGETHER = 9, 10  # repeats, and sparse products or copies that are timed as one
BLOCKS = {"device": (8, 32), "cpu": (8,)}
PAIRS = 8
LONGEST = 200.0  # seconds, as the single product has it, of a block that is tried on a host
COPIED = {"full": 2**27, "small": 2**21}  # numbers of a copy: 1 GiB, and 16 MiB
VECTORS = ("state", "gradient", "product")


class Device:
    """Where arrays live: numpy's host, or cupy's device."""

    def __init__(self, name: str) -> None:
        self.xp = np
        if name == "cuda":
            import cupy

            self.xp = cupy

    @property
    def is_host(self) -> bool:
        return self.xp is np

    def synchronize(self) -> None:
        """Wait for all that was launched."""
        if not self.is_host:
            self.xp.cuda.Device().synchronize()

    def peak_bytes(self) -> int:
        """The most that was held at a time: by cupy's pool, or by this process.

        The pool gives nothing back of itself: what it holds at the end is the most it needed.
        """
        if self.is_host:
            return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(self.xp.get_default_memory_pool().total_bytes())

    def copy_rate(self, numbers: int) -> float:
        """Bytes a second of a copy, those read and those written."""
        source, target = self.xp.ones(numbers), self.xp.zeros(numbers)
        seconds = self.seconds(lambda: [self.xp.copyto(target, source) for _ in range(TOGETHER)])
        return 2 * source.nbytes * TOGETHER / seconds

    def timed(self, function):
        """What it returns, and its seconds."""
        self.synchronize()
        start = time.perf_counter()
        found = function()
        self.synchronize()
        return found, time.perf_counter() - start

    def seconds(self, function) -> float:
        """Median of the repeats, without the first; of what takes long, the first."""
        _, first = self.timed(function)
        if first > PATIENCE:
            return first
        taken: list[float] = []
        while len(taken) < MOST and sum(taken) < PATIENCE:
            taken.append(self.timed(function)[1])
        return statistics.median(taken)


class Figures:
    """Figures by name, on file after each."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, {"failed": {}}
        self.save()

    def save(self, **figures) -> None:
        self.found |= figures
        self.path.write_text(json.dumps(self.found))

    @contextlib.contextmanager
    def attempt(self, what: str):
        """Go on without it where it fails, and say why."""
        try:
            yield
        except Exception as error:
            lines = str(error).splitlines() or [""]
            self.found["failed"][what] = f"{type(error).__name__}: {lines[0][:150]}"
            self.save()


@contextlib.contextmanager
def timing_setups(device: Device):
    """A list of the seconds of every set-up of multigrid inside."""
    taken: list[float] = []
    method = mfdeq.AMG.setup

    def setup(self, A):
        found, seconds = device.timed(lambda: method(self, A))
        taken.append(seconds)
        return found

    with mock.patch.object(mfdeq.AMG, "setup", setup):
        yield taken


def measure(case: Case, device: Device, role: str, folder: Path, figures: Figures) -> None:
    """All figures of the "device", or those of the "cpu" that it is held against."""
    problem, built = device.timed(lambda: case.build(device.xp))
    model, theta, loss = problem.model, problem.theta, problem.loss
    figures.save(title=case.title, N=model.state_size, P=model.param_size, build=built)

    with timing_setups(device) as setups:
        eq, solved = device.timed(
            lambda: mfdeq.solve(model, theta, problem.start, solver=problem.solver)
        )
        inside = sum(setups)
        _, factored = device.timed(lambda: eq.factor)
    report = eq.report
    figures.save(
        setup=sum(setups) / len(setups),
        setups=len(setups),
        solve=solved - inside,
        steps=report.iterations,
        checked=factored - (sum(setups) - inside),
        solver=report.solver,
    )

    H, v = eq.hessian(loss), problem.direction()
    compare(figures, folder, role, (eq.state, eq.gradient(loss), H @ v))
    single = device.seconds(lambda: H.apply_inexact(v, TOLERANCE))
    figures.save(product=single)
    if role == "device":
        before = report.linear.iterations
        with counted() as traffic:
            H.apply_inexact(v, TOLERANCE)
        figures.save(iterations=report.linear.iterations - before)
        with figures.attempt("bandwidth"):
            bandwidth(case, device, eq.factor, traffic.bytes / single, figures)
        with figures.attempt(f"{PAIRS} eigenpairs"):
            pairs, seconds = device.timed(lambda: mfdeq.eigsh(H, PAIRS))
            largest = float(abs(pairs.values).max())
            figures.save(eigenpairs=seconds, products=pairs.report.products, largest=largest)
            del pairs
    for columns in BLOCKS[role]:
        if device.is_host and columns * single > LONGEST:
            why = f"a single product takes {single:.0f} s"
            figures.found["failed"][f"block of {columns}"] = f"not tried: {why}"
            continue
        with figures.attempt(f"block of {columns}"):
            V = problem.block(columns)
            taken = device.seconds(lambda V=V: H.apply_inexact(V, TOLERANCE))
            figures.save(**{f"column of {columns}": taken / columns})
    figures.save(peak=device.peak_bytes())


def bandwidth(case: Case, device: Device, factor, whole: float, figures: Figures) -> None:
    """Rates of a copy, of the sparse products on the finest level, and of a Hessian product."""
    copied = device.copy_rate(COPIED[case.sizes])
    moved = seconds = 0.0
    for product, size in fine_products(factor):
        moved += TOGETHER * size
        seconds += device.seconds(lambda p=product: [p() for _ in range(TOGETHER)])
    figures.save(copy=copied, fine=moved / seconds, whole=whole)


def compare(figures: Figures, folder: Path, role: str, vectors) -> None:
    """Leave the device's vectors to the host, which says how far its own are from them."""
    for name, vector in zip(VECTORS, vectors, strict=True):
        path = folder / f"{name}.npy"
        found = mfdeq.arrays.backend.array_on_host(vector)
        if role == "device":
            np.save(path, found)
        elif path.exists():
            off = np.linalg.norm(np.load(path) - found) / np.linalg.norm(found)
            figures.save(**{f"{name} off": float(off)})

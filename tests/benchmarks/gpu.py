"""Benchmark solves and Hessian products on a GPU, in stages that end when the time is over.

    python -m tests.benchmarks.gpu [--seconds S] [--device cuda|cpu] [--sizes full|small]
                                   [--output FILE] [--wheels] [--page FILE]

A first stage checks the device against the host. The others follow in order of worth: set-up and
solves of Poisson's equation by CG with multigrid, a factorization by cuDSS, Hessian products and
the same by JAX. Each is begun only if the time that it is expected to take, from what smaller
problems took, is left. All times include the set-up, unless they are listed apart from it. Each
figure is written to a file of JSON lines at once, so that what was measured survives a failure: if
a stage ends its process, the next one begins in a new process.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[2]
SECONDS = 360.0  # of all stages together
WHEELS = """\
# For CUDA 13; python -m pip download -r FILE fetches them where there is a network.
cupy-cuda13x[ctk]>=14.2
nvmath-python[cu13]>=1.0
jax[cuda13]>=0.4.30
numpy>=1.26
scipy>=1.12
pyamg>=5.2
array-api-compat>=1.9
tqdm>=4.66"""
TOLERANCE = 1e-8  # true relative residual of the solves of a product, as for all peers
AGREED = 1e-6  # relative difference of device and host in the check
PATIENCE, MOST = 3.0, 7  # seconds and number of the repeats of one timing
COPIED = {"full": 2**27, "small": 2**20}  # float64 numbers of a copy
# Seconds that torch-sla publishes for its CG with Jacobi on an H200, without a set-up.
PUBLISHED = {2**20: 0.190, 2**24: 7.3}
POISSON = {"full": (1024, 4096, 8192), "small": (32, 64, 96)}  # cells each way
FACTORED = {"full": (1024, 2048, 4096), "small": (32, 48, 64)}
PRODUCTS = {"full": ((4096, 2), (256, 3)), "small": ((32, 2), (8, 3))}


class Device:
    """The array library, and its clock."""

    def __init__(self, name: str) -> None:
        self.on_host = name == "cpu"
        self.xp = np if self.on_host else importlib.import_module("cupy")
        self.sparse = importlib.import_module(
            "scipy.sparse" if self.on_host else "cupyx.scipy.sparse"
        )

    def timed(self, function: Callable[[], Any]) -> tuple[Any, float]:
        """Return the result of a function and its seconds, until the device has finished."""
        self.synchronize()
        start = time.perf_counter()
        found = function()
        self.synchronize()
        return found, time.perf_counter() - start

    def seconds(self, function: Callable[[], Any]) -> float:
        """Return the median seconds of repeated calls without the first, which compiles."""
        function()
        taken = [self.timed(function)[1]]
        while len(taken) < MOST and sum(taken) < PATIENCE:
            taken.append(self.timed(function)[1])
        return statistics.median(taken)

    def synchronize(self) -> None:
        """Wait for everything that was launched."""
        if not self.on_host:
            self.xp.cuda.Device().synchronize()

    def release(self) -> None:
        """Return the memory of earlier stages to the device."""
        if not self.on_host:
            self.xp.get_default_memory_pool().free_all_blocks()

    def poisson(self, n: int) -> Any:
        """Return the five-point Laplacian on n x n cells as a CSR matrix, made on the device."""
        xp, size = self.xp, n * n
        inner = xp.ones(size - 1)
        inner[n - 1 :: n] = 0.0  # between the last cell of a row and the first of the next one
        diagonals = [4.0 * xp.ones(size), -inner, -inner, -xp.ones(size - n), -xp.ones(size - n)]
        A = self.sparse.diags(diagonals, [0, 1, -1, n, -n], format="csr")
        A.eliminate_zeros()
        return A


class Run(NamedTuple):
    """What a stage is given: the device, "full" or "small", and where figures go."""

    device: Device
    sizes: str
    figure: Callable[..., None]


class Stage(NamedTuple):
    """A part of the benchmark, and the seconds that it takes.

    Attributes
    ----------
    run : callable
        Measures, and passes each figure to ``Run.figure``.
    seconds : float
        What it is expected to take if nothing is known.
    after : str
        The name of the same stage for a smaller problem, or "".
    growth : float
        The seconds over those of the smaller problem.
    """

    name: str
    run: Callable[[Run], None]
    seconds: float
    after: str = ""
    growth: float = 1.0

    def expected(self, taken: dict[str, float]) -> float:
        """Return the seconds expected, from those of the stages that have ended."""
        return self.growth * taken[self.after] if self.after in taken else self.seconds


def stages(sizes: str) -> list[Stage]:
    """Return all stages, the most important first."""
    poisson = [_poisson_stage(n) for n in POISSON[sizes]]
    factored = [
        Stage(f"cuDSS {n}²", functools.partial(factorize, n), 10.0) for n in FACTORED[sizes]
    ]
    ours, theirs = [], []
    for n, dimension in PRODUCTS[sizes]:
        title = f"{n}{'²' if dimension == 2 else '³'}"
        ours.append(Stage(f"Hessian {title}", functools.partial(hessian, n, dimension), 80.0))
        theirs.append(Stage(f"JAX {title}", functools.partial(jax_product, n, dimension), 40.0))
    for several in (poisson, factored):
        for i in range(1, len(several)):
            ratio = (_cells(several[i].name) / _cells(several[i - 1].name)) ** 2
            several[i] = several[i]._replace(after=several[i - 1].name, growth=1.2 * ratio)
    return [
        Stage("check", check, 30.0),
        Stage("copy", copy, 5.0),
        *poisson[:2],
        factored[0],
        ours[0],
        theirs[0],
        *factored[1:],
        ours[1],
        theirs[1],
        *poisson[2:],
    ]


def _cells(name: str) -> int:
    return int(name.split()[1][:-1])


def _poisson_stage(n: int) -> Stage:
    return Stage(f"Poisson {n}²", functools.partial(poisson, n), 30.0)


def check(run: Run) -> None:
    """Compare states, gradients, products, blocks and eigenvalues with those of the host."""
    import mfdeq

    from .problems import Convection, Diffusion

    def results(xp, make, solver):
        model = make(xp)
        eq = mfdeq.solve(model, model.lognormal(), solver=solver)
        H = eq.hessian(model.loss(50))
        V = xp.asarray(np.random.default_rng(0).standard_normal((model.param_size, 3)))
        pairs = mfdeq.eigsh(H, 3)
        found = {
            "state": eq.state,
            "gradient": eq.gradient(model.loss(50)),
            "product": H @ V[:, 0],
            "block": H @ V,
            "eigenvalues": pairs.values,
        }
        return {name: mfdeq.arrays.backend.array_on_host(x) for name, x in found.items()}

    amg = mfdeq.AMG()
    cases = {
        "CG + AMG": (lambda xp: Diffusion(48, 2, xp), mfdeq.Krylov("cg", preconditioner=amg)),
        "GMRES + AMG": (
            lambda xp: Convection(32, xp),
            mfdeq.Krylov("gmres", preconditioner=mfdeq.AMG("air")),
        ),
        "Direct": (lambda xp: Diffusion(12, 3, xp), mfdeq.Direct()),
        "auto": (lambda xp: Convection(24, xp), "auto"),
    }
    for title, (make, solver) in cases.items():
        host, device = results(np, make, solver), results(run.device.xp, make, solver)
        off = max(
            np.linalg.norm(device[name] - host[name]) / np.linalg.norm(host[name]) for name in host
        )
        run.figure(f"{title}: largest difference from the host", float(off), "")
        if not off <= AGREED:
            raise ArithmeticError(f"{title}: device and host differ by {off:.1e}")


def copy(run: Run) -> None:
    """Measure the bandwidth of a copy: bytes read and written per second."""
    run.figure("bandwidth of a copy", copy_rate(run), "B/s")


@functools.cache
def _copy_rate(device: Device, numbers: int) -> float:
    source, target = device.xp.ones(numbers), device.xp.zeros(numbers)
    seconds = device.seconds(lambda: [device.xp.copyto(target, source) for _ in range(10)])
    return 20 * source.nbytes / seconds


def copy_rate(run: Run) -> float:
    """Return the bytes per second of a copy on the device."""
    return _copy_rate(run.device, COPIED[run.sizes])


def poisson(n: int, run: Run) -> None:
    """Solve Poisson's equation by CG with multigrid, to two true relative residuals."""
    import mfdeq

    device = run.device
    A, built = device.timed(lambda: device.poisson(n))
    b = device.xp.ones(n * n)
    run.figure("unknowns", n * n, "")
    run.figure("matrix", built, "s")
    solver = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())
    factor, seconds = device.timed(lambda: solver.setup(A))
    run.figure("set-up", seconds, "s")
    for rtol in (1e-6, 1e-10):
        before = factor.counts.iterations
        x, seconds = device.timed(lambda rtol=rtol: factor.solve(b, rtol=rtol))
        run.figure(f"first solve to {rtol:.0e}", seconds, "s")
        run.figure(f"iterations to {rtol:.0e}", factor.counts.iterations - before, "")
        residual = device.xp.linalg.norm(b - A @ x) / device.xp.linalg.norm(b)
        run.figure(f"true residual of {rtol:.0e}", float(residual), "")
        seconds = device.seconds(lambda rtol=rtol: factor.solve(b, rtol=rtol))
        run.figure(f"solve to {rtol:.0e}", seconds, "s")
        if rtol == 1e-6 and n * n in PUBLISHED and not device.on_host:
            run.figure("published CG with Jacobi over ours", PUBLISHED[n * n] / seconds, "")
    from .gpu_traffic import fine_products

    moved = taken = 0.0
    for product, size in fine_products(factor):
        moved += size
        taken += device.seconds(product)
    run.figure("sparse products of the fine level, of a copy", moved / taken / copy_rate(run), "")


def factorize(n: int, run: Run) -> None:
    """Factorize the same matrix by cuDSS; on the host, by what `Direct` takes."""
    import mfdeq

    device = run.device
    A, b = device.poisson(n), device.xp.ones(n * n)
    solver = mfdeq.Direct() if device.on_host else mfdeq.Direct(package="cudss")
    factor, seconds = device.timed(lambda: solver.setup(A))
    run.figure("unknowns", n * n, "")
    run.figure("set-up", seconds, "s")
    run.figure("solve", device.seconds(lambda: factor.solve(b, rtol=1e-10)), "s")
    block = device.xp.ones((n * n, 8))
    seconds = device.seconds(lambda: factor.solve(block, rtol=1e-10))
    run.figure("column in a block of 8", seconds / 8, "s")


def hessian(n: int, dimension: int, run: Run) -> None:
    """Multiply by the Hessian of diffusion with a parameter for each cell."""
    import mfdeq

    from .gpu_traffic import counted
    from .problems import Diffusion

    device = run.device
    model = Diffusion(n, dimension, device.xp)
    theta, loss = model.lognormal(), model.loss(min(500, model.state_size // 4))
    solver = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())
    eq, seconds = device.timed(lambda: mfdeq.solve(model, theta, solver=solver))
    run.figure("unknowns", model.state_size, "")
    run.figure("state, set-up included", seconds, "s")
    _, seconds = device.timed(lambda: eq.gradient(loss))
    run.figure("gradient", seconds, "s")
    H = eq.hessian(loss)
    v, V = (
        device.xp.asarray(np.random.default_rng(0).standard_normal(shape))
        for shape in (model.param_size, (model.param_size, 8))
    )
    single = device.seconds(lambda: H.apply_inexact(v, TOLERANCE))
    run.figure("product", single, "s")
    with counted() as traffic:
        H.apply_inexact(v, TOLERANCE)
    run.figure("bandwidth of a product, of a copy", traffic.bytes / single / copy_rate(run), "")
    seconds = device.seconds(lambda: H.apply_inexact(V, TOLERANCE)) / 8
    run.figure("column in a block of 8", seconds, "s")
    run.figure("column in a block of 8, of a product", seconds / single, "")


def jax_product(n: int, dimension: int, run: Run) -> None:
    """Multiply by the same Hessian in JAX: compiled, CG with Jacobi, the same true residual."""
    from .hessian_peers import coefficients, grid_offsets, jax_product
    from .peers_jax import in_float64, jax_solver, shifts
    from .problems import Diffusion

    jax = in_float64()
    wanted = "cpu" if run.device.on_host else "gpu"
    if jax.devices()[0].platform != wanted:
        raise RuntimeError(f"this JAX computes on {jax.devices()[0].platform}, not on {wanted}")
    model = Diffusion(n, dimension)
    loss = model.loss(min(500, model.state_size // 4))
    theta = jax.device_put(model.lognormal())
    v = jax.device_put(np.random.default_rng(0).standard_normal(model.param_size))
    offsets, krylov = grid_offsets(n, dimension), jax_solver("cg", 60_000)

    def diagonals_of(theta):
        return coefficients(theta, n, dimension)

    multiply = shifts(offsets)

    @jax.jit
    def residual_of(theta, b):
        diagonals = diagonals_of(theta)
        x = krylov(lambda h: multiply(diagonals, h), 1.0 / diagonals[0], True, TOLERANCE, b)[0]
        return jax.numpy.linalg.norm(multiply(diagonals, x) - b) / jax.numpy.linalg.norm(b)

    run.figure("true residual of a solve", float(residual_of(theta, v)), "")
    product = jax_product(diagonals_of, offsets, loss, theta, krylov, True, TOLERANCE)
    seconds = run.device.seconds(lambda: jax.block_until_ready(product(v)))
    run.figure("product", seconds, "s")


# --- the clock and the processes -----------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    started = time.time()
    options = parse(arguments)
    if options.wheels:
        print(WHEELS)
    elif options.page:
        print(page(read(options.page)), end="")
    elif options.worker:
        work(options)
    else:
        supervise(options, started + options.seconds)


def supervise(options: argparse.Namespace, deadline: float) -> None:
    """Run the stages in a process, and in another one after each that ends it."""
    write(options.output, {"machine": machine(options)}, mode="w")
    planned = stages(options.sizes)
    # JAX would take most of the memory of the device.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--device", options.device]
    command += ["--sizes", options.sizes, "--output", str(options.output.absolute())]
    command += ["--worker", str(deadline)]
    begun: list[str] = []
    while len(begun) < len(planned):
        limit, before = max(deadline - time.time(), 0.0), len(begun)
        try:
            done = subprocess.run(command, cwd=ROOT, env=environment, timeout=limit, check=False)
            why = f"the process ended with {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            why = "the time is over"
        begun = [line["begun"] for line in read(options.output) if "begun" in line]
        if not why:
            break
        if len(begun) == before:  # a process that did not come to its stage
            write(options.output, {"begun": planned[before].name})
            begun.append(planned[before].name)
        record(options.output, begun[-1], "failed", why, "")
    print(f"figures are in {options.output}")


def work(options: argparse.Namespace) -> None:
    """Run the stages that have not begun, as long as there is time for them."""
    lines, deadline = read(options.output), options.worker
    begun = {line["begun"] for line in lines if "begun" in line}
    taken = {line["stage"]: line["value"] for line in lines if line.get("figure") == "whole stage"}
    device = Device(options.device)
    for stage in stages(options.sizes):
        if stage.name in begun:
            continue
        write(options.output, {"begun": stage.name})
        figure = functools.partial(record, options.output, stage.name)
        left, expected = deadline - time.time(), stage.expected(taken)
        if expected > left:
            figure("left out", f"it takes about {expected:.0f} s, and {left:.0f} s are left", "")
            continue
        start = time.time()
        try:
            stage.run(Run(device, options.sizes, figure))
        except Exception as error:
            why = (str(error).splitlines() or [""])[0][:200]
            figure("failed", f"{type(error).__name__}: {why}", "")
        taken[stage.name] = time.time() - start
        figure("whole stage", taken[stage.name], "s")
        with contextlib.suppress(Exception):
            device.release()


def record(path: Path, stage: str, figure: str, value: Any, unit: str) -> None:
    """Write and print one figure."""
    write(path, {"stage": stage, "figure": figure, "value": value, "unit": unit})
    print(f"{stage:16} {figure:48} {shown(value, unit)}", flush=True)


def write(path: Path, line: dict, mode: str = "a") -> None:
    with path.open(mode) as file:
        file.write(json.dumps(line) + "\n")


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def shown(value: Any, unit: str) -> str:
    """Return a figure as text."""
    if isinstance(value, str):
        return value
    if unit == "s":
        return f"{1e3 * value:.1f} ms" if value < 1.0 else f"{value:.1f} s"
    if unit == "B/s":
        return f"{value / 1e9:.0f} GB/s"
    return f"{value:,}" if isinstance(value, int) else f"{value:.2g}"


def page(lines: list[dict]) -> str:
    """Return a page of the documentation with the figures of one file."""
    found = lines[0]["machine"]
    title = found["device"]
    text = [title, "=" * len(title), ""]
    text += [", ".join(f"{name} {value}" for name, value in found.items() if name != "device"), ""]
    text += [".. list-table::", "   :header-rows: 1", ""]
    rows = [("stage", "figure", "value")]
    rows += [
        (line["stage"], line["figure"], shown(line["value"], line["unit"]))
        for line in lines
        if "figure" in line
    ]
    for stage, figure, value in rows:
        text += [f"   * - {stage}", f"     - {figure}", f"     - {value}"]
    return "\n".join(text) + "\n"


def machine(options: argparse.Namespace) -> dict[str, str]:
    """Return the names and versions of what is measured."""
    found = {"device": platform.processor() or platform.machine(), "sizes": options.sizes}
    if options.device == "cuda":
        if importlib.util.find_spec("cupy") is None:
            raise SystemExit("--device cuda: install what --wheels lists")
        cupy = importlib.import_module("cupy")
        if not cupy.is_available():
            raise SystemExit("--device cuda: cupy finds no device")
        name = cupy.cuda.runtime.getDeviceProperties(0)["name"]
        found["device"] = name.decode() if isinstance(name, bytes) else name
        found["CUDA"] = str(cupy.cuda.runtime.runtimeGetVersion())
        found["cupy"] = cupy.__version__
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return found | {"commit": done.stdout.strip() or "unknown", "date": time.strftime("%Y-%m-%d")}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of all stages together")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--sizes", choices=("full", "small"), default="full")
    parser.add_argument("--output", type=Path, default=Path("gpu.jsonl"), help="file of figures")
    parser.add_argument("--wheels", action="store_true", help="list the packages needed, and end")
    parser.add_argument("--page", type=Path, help="print the page of a file of figures, and end")
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

"""Eigenvalues of a Hessian: ours against others with the same products.

    python -m tests.benchmarks.spectrum [--small] [--problems NAME ...] [--rounds R]

The largest in magnitude, 8 and 50, to residuals of 1e-6 of the largest: this library's Lanczos with
products as accurate as needed and with tight ones, in blocks, and without the search for copies,
which the others lack; scipy's ARPACK, at its default basis and at ours, and its LOBPCG; SLEPc and
PRIMME where they can be imported; what the search for copies adds to the products; and the time
outside of products, over that in them, ours and ARPACK's. Then the 8 nearest to zero, certified by
counts, in multiples of the time of one factorization of the Lagrangian system; and the same of a
Gauss-Newton Hessian by a preconditioner, beside LOBPCG. JAX is one compiled product times the
products that ARPACK takes. Last a posterior of 100 modes at N = P = 10^5, and what its steps take.
Seconds of the processor, medians.
"""

from __future__ import annotations

import argparse
import statistics
import time

from .linear import one_core, verdict

RTOL = 1e-6
PROBLEMS = {"256²": (256, 2, "auto"), "256², CG": (256, 2, "cg"), "64³": (64, 3, "cg")}
SMALL = {"16²": (16, 2, "auto"), "16², CG": (16, 2, "cg"), "6³": (6, 3, "cg")}
PAIRS = (8, 50)
AIMS = {"cg": 0.5, "auto": 1.0}  # of ARPACK's time
OWN_TIME = {8: 0.05, 50: 0.15}  # outside of products, over the time in them
SEARCH = 0.25  # of the products before the search for copies
SHIFTED = 2.0  # times a factorization
MINUTE = 60.0  # seconds, of a posterior
MODES, POSTERIOR, SMALL_POSTERIOR = 100, 316, 40  # and cells along a side


def problem(n: int, dimension: int, solver: str):
    """An inverse problem at a rough field, with a prior that is a squared Laplacian."""
    import scipy.sparse as sp

    import mfdeq

    from .problems import Diffusion

    model = Diffusion(n, dimension)
    laplacian = sp.csr_matrix(model.Dt @ model.D) / (n + 1) ** 2
    loss = model.loss(min(100, model.state_size // 4))
    prior = mfdeq.QuadraticPrior(1e-4 * (laplacian @ laplacian) + 1e-6 * sp.identity(n**dimension))
    iterative = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())
    eq = mfdeq.solve(model, model.lognormal(), solver=iterative if solver == "cg" else "auto")
    _ = eq.factor
    return eq, eq.hessian(loss), eq.hessian(loss + prior)


class Counted:
    """The products of an operator, for those who do not count."""

    def __init__(self, H) -> None:
        import numpy as np
        from scipy.sparse.linalg import LinearOperator

        self.count, self.seconds = 0, 0.0

        def product(x):
            self.count += 1 if x.ndim == 1 else x.shape[1]
            start = time.process_time()
            y = H @ x
            self.seconds += time.process_time() - start
            return y

        self.operator = LinearOperator(H.shape, matvec=product, matmat=product, dtype=np.float64)


def own_time(H, k: int, rounds: int) -> None:
    """Print what the search for copies adds, and the time outside of products over that in them."""
    import numpy as np
    from scipy.sparse.linalg import eigsh

    import mfdeq

    start = np.random.default_rng(0).standard_normal(H.shape[0])
    runs = {
        "ours": lambda A: mfdeq.eigsh(A, k=k, rtol=RTOL, complete=False),
        "ours, with the search": lambda A: mfdeq.eigsh(A, k=k, rtol=RTOL),
        "ARPACK": lambda A: eigsh(A, k, tol=RTOL, v0=start),
    }
    shares: dict[str, list[float]] = {name: [] for name in runs}
    found = {}
    for _ in range(rounds):
        for name, run in runs.items():
            counted = Counted(H)
            total = seconds(lambda r=run, n=name, c=counted: found.__setitem__(n, r(c.operator)))
            shares[name].append((total - counted.seconds) / counted.seconds)
    report = found["ours, with the search"].report
    own = report.products - report.extra_products
    print(verdict("products of the search for copies", report.extra_products / own, SEARCH))
    for name, of in shares.items():
        text, value = f"own time over that of products, {name}", statistics.median(of)
        line = verdict(text, value, OWN_TIME[k]) if name == "ours" else f"    {text} {value:.2f}"
        print(line, flush=True)


def contenders(H, k: int) -> dict:
    """Name: a function that returns values and products."""
    import numpy as np
    from scipy.sparse.linalg import eigsh, lobpcg

    import mfdeq

    P, rng = H.shape[0], np.random.default_rng(0)
    start = rng.standard_normal(P)

    def ours(**options):
        found = mfdeq.eigsh(H, k=k, rtol=RTOL, **options)
        return found.values, found.report.products

    def arpack(ncv):
        counted = Counted(H)
        values = eigsh(counted.operator, k, tol=RTOL, ncv=ncv, v0=start, return_eigenvectors=False)
        return values, counted.count

    def by_lobpcg():
        counted = Counted(H)
        block = rng.standard_normal((P, k + 4))
        values = lobpcg(counted.operator, block, tol=RTOL, maxiter=60)[0]
        return values[:k], counted.count

    found = {
        "ours": ours,
        "ours, no search for copies": lambda: ours(complete=False),
        "ours, tight products": lambda: ours(relaxed=False),
        "ours, blocks of 2": lambda: ours(block=2),
        "ours, blocks of 4": lambda: ours(block=4),
        "ARPACK": lambda: arpack(None),
        "ARPACK, basis as ours": lambda: arpack(min(P - 1, max(3 * k, 40))),
    }
    if k <= 8:
        found["LOBPCG (largest)"] = by_lobpcg
    found |= _slepc(H, k) | _primme(H, k)
    return found


def _slepc(H, k: int) -> dict:
    try:
        from petsc4py import PETSc
        from slepc4py import SLEPc
    except ImportError:
        print("    absent: SLEPc")
        return {}

    def solve():
        counted = Counted(H)

        class Shell:
            def mult(self, _, x, y):
                y.setArray(counted.operator @ x.getArray(readonly=True))

        A = PETSc.Mat().createPython(H.shape, Shell(), comm=PETSc.COMM_SELF)
        A.setUp()
        solver = SLEPc.EPS().create(PETSc.COMM_SELF)
        solver.setOperators(A)
        solver.setProblemType(SLEPc.EPS.ProblemType.HEP)
        solver.setDimensions(k)
        solver.setTolerances(RTOL)
        solver.solve()
        return [solver.getEigenvalue(i).real for i in range(k)], counted.count

    return {"SLEPc Krylov–Schur": solve}


def _primme(H, k: int) -> dict:
    try:
        import primme
    except ImportError:
        print("    absent: PRIMME")
        return {}

    def solve():
        counted = Counted(H)
        return primme.eigsh(counted.operator, k, tol=RTOL, which="LM")[0], counted.count

    return {"PRIMME": solve}


def seconds(function) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def largest(H, k: int, solver: str, rounds: int) -> float:
    """Print the race for the k largest; ARPACK's products."""
    import numpy as np

    runs = contenders(H, k)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    said: dict[str, tuple] = {}
    for _ in range(rounds):
        for name, run in runs.items():
            try:
                taken[name].append(seconds(lambda r=run, n=name: said.__setitem__(n, r())))
            except Exception as error:
                said[name] = ((), f"{type(error).__name__}: {str(error)[:80]}")
    truth = np.sort(said["ours, tight products"][0])
    print(f"  {k} largest in magnitude")
    for name, (values, products) in said.items():
        if not taken[name]:
            print(f"    {name:<26}{products}")
            continue
        off = np.abs(np.sort(values) - truth).max() / np.abs(truth).max()
        one = statistics.median(taken[name])
        print(f"    {name:<26}{one:9.2f} s{products:6d} products   {off:.0e}")
    arpack = min(statistics.median(taken[n]) for n in taken if n.startswith("ARPACK"))
    ours = min(statistics.median(taken[n]) for n in taken if n.startswith("ours"))
    print(verdict("ours / the best ARPACK", ours / arpack, AIMS[solver]), flush=True)
    return min(said[n][1] for n in taken if n.startswith("ARPACK")), ours


def nearest(H, rounds: int) -> None:
    """Print the eight nearest to zero, certified."""
    import mfdeq
    from mfdeq import ShiftedInverse

    factorization = [seconds(lambda: ShiftedInverse(H, 0.0)) for _ in range(rounds)]
    found = {}

    def solve(certify):
        found["pairs"] = mfdeq.eigsh(H, k=8, sigma=0.0, certify=certify)

    plain = [seconds(lambda: solve(False)) for _ in range(rounds)]
    counted = seconds(lambda: solve(True))
    pairs, one = found["pairs"], statistics.median(factorization)
    print(f"  8 nearest to zero: {pairs.values[0]:.3e} to {pairs.values[-1]:.3e}")
    print(f"    bounds up to {pairs.error_bounds.max():.0e}, missed: {pairs.report.missed}")
    print(f"    a factorization {one:.2f} s; with certifying counts {counted / one:.2f} times that")
    print(
        verdict("time over a factorization's", statistics.median(plain) / one, SHIFTED), flush=True
    )


def smallest(n: int, rounds: int) -> None:
    """Print the eight smallest of a Gauss-Newton Hessian and its prior, by a preconditioner."""
    import warnings

    import numpy as np
    import scipy.sparse as sp
    from scipy.sparse.linalg import lobpcg

    import mfdeq

    from .problems import Diffusion

    model = Diffusion(n)
    laplacian = sp.csr_matrix(model.Dt @ model.D) / (n + 1) ** 2
    R = mfdeq.Precision((1e-4 * (laplacian @ laplacian) + 1e-6 * sp.identity(n * n)).tocsr())
    iterative = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())
    eq = mfdeq.solve(model, model.lognormal(), solver=iterative)
    misfit = model.loss(min(100, n * n // 4))
    modes = min(150, n * n // 4 + 20)
    pairs = mfdeq.eigsh(eq.hessian(misfit).gauss_newton, modes, M=R, rtol=1e-9)
    low = mfdeq.LowRank(pairs)
    H = eq.hessian(misfit + mfdeq.QuadraticPrior(R)).gauss_newton
    said = {}

    def ours(block):
        found = mfdeq.eigsh(H, 8, "SA", preconditioner=low, block=block, rtol=RTOL)
        said[f"Davidson, blocks of {block}"] = (found.report.products, found.report.residuals.max())
        return found

    def theirs(tol):
        counted = Counted(H)
        X = np.random.default_rng(0).standard_normal((n * n, 10))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values, V = lobpcg(counted.operator, X, M=low, largest=False, tol=tol, maxiter=200)
        off = np.linalg.norm(H @ V[:, :8] - V[:, :8] * values[:8], axis=0).max()
        said["LOBPCG"] = (counted.count - 8, off)

    scale = abs(ours(1).values).max()
    runs = {f"Davidson, blocks of {b}": (lambda b=b: ours(b)) for b in (1, 4, 8)}
    runs["LOBPCG"] = lambda: theirs(RTOL * scale)
    print(f"  8 smallest of Gauss-Newton and prior, preconditioned by {modes} modes")
    for name, run in runs.items():
        one = statistics.median(seconds(run) for _ in range(rounds))
        products, off = said[name]
        print(f"    {name:<26}{one:9.2f} s{products:6d} products   {off:.0e}", flush=True)


def posterior(n: int) -> None:
    """Print what a low-rank posterior takes, step by step."""
    import scipy.sparse as sp

    import mfdeq

    from .problems import Diffusion

    model = Diffusion(n)
    laplacian = sp.csr_matrix(model.Dt @ model.D) / (n + 1) ** 2
    precision = (laplacian @ laplacian + 1e-4 * sp.identity(n * n)).tocsr()
    print(f"\nA posterior of {MODES} modes: N = P = {n * n:,}, {10 * MODES} observations")
    held: dict = {}

    def state():
        held["eq"] = mfdeq.solve(model, model.lognormal())
        _ = held["eq"].factor

    def prior():
        held["R"] = mfdeq.Precision(precision)

    def modes():
        G = held["eq"].hessian(model.loss(min(10 * MODES, n * n // 4))).gauss_newton
        held["pairs"] = mfdeq.eigsh(G, MODES, M=held["R"], block=8)

    def drawn():
        low = held["low"] = mfdeq.LowRank(held["pairs"])
        low.variances(), low.samples(10), low.log_determinant()

    total = 0.0
    for name, step in {
        "state and factor": state,
        "prior's factor": prior,
        "eigenpairs": modes,
        "variances, 10 samples, determinant": drawn,
    }.items():
        start = time.perf_counter()
        step()
        taken = time.perf_counter() - start
        total += taken
        print(f"    {name:<36}{taken:7.2f} s")
    values, products = held["pairs"].values, held["pairs"].report.products
    print(f"    mu from {values[-1]:.1e} to {values[0]:.1e} in {products} products")
    print(f"    the covariance is off by at most {held['low'].error:.0e}, beside what is left out")
    print(verdict("seconds", total, MINUTE), flush=True)


def against_jax(n: int, dimension: int, products: float, ours: float) -> None:
    """Print what ARPACK with JAX's products would take."""
    import numpy as np

    from .hessian_peers import jax_hessian
    from .peers import Absent, need
    from .problems import Diffusion

    try:
        need("jax")
    except Absent as reason:
        print(f"    absent: JAX, {reason}")
        return
    model = Diffusion(n, dimension)
    theta = model.lognormal()
    product = jax_hessian(model, model.loss(min(100, model.state_size // 4)), theta)
    v = np.random.default_rng(0).standard_normal(theta.size)
    product(v)
    one = statistics.median(seconds(lambda: product(v)) for _ in range(3))
    print(
        f"    JAX: {one:.2f} s a product; {products} of them / ours = {products * one / ours:.0f}"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--problems", nargs="+", choices=[*PROBLEMS, *SMALL])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    known = SMALL if options.small else PROBLEMS
    for name in options.problems or known:
        n, dimension, solver = known[name]
        eq, H, regular = problem(n, dimension, solver)
        print(f"\n{name}: N = P = {n**dimension:,}; {eq.report.solver}")
        for k in PAIRS:
            products, ours = largest(H, k, solver, options.rounds)
            own_time(H, k, options.rounds)
            if k == PAIRS[0]:
                against_jax(n, dimension, products, ours)
        if dimension == 2 and solver == "auto":
            nearest(regular, options.rounds)
        if dimension == 2 and solver == "cg":
            smallest(n, options.rounds)
    if not options.problems:
        posterior(SMALL_POSTERIOR if options.small else POSTERIOR)


if __name__ == "__main__":
    one_core()
    main()

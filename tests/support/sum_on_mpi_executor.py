"""A sum of functionals on the workers of `mpi4py.futures`: a program for several ranks.

mpiexec -n 3 python -m mpi4py.futures sum_on_mpi_executor.py
"""

import numpy as np
from mpi4py.futures import MPIPoolExecutor
from support.experiments import P, matrices, source

import mfdeq
from mfdeq.optimization.remote_experiments import worker_count
from mfdeq.optimization.workers import worker_name

WEIGHTS = [1.0, 2.0, 0.5, 1.0, 0.3]


def main():
    theta = np.array([0.3, -0.2, 0.1])
    D, other = matrices(9, 1), matrices(7, 2)
    experiments = [source(d, i, theta) for i, d in enumerate((D, other, D, other, D))]
    gradient, dense = (
        sum(w * getattr(e.truth, name) for w, e in zip(WEIGHTS, experiments, strict=True))
        for name in ("gradient", "H")
    )
    with MPIPoolExecutor() as executor:
        F = mfdeq.SumFunctional([e.functional for e in experiments], WEIGHTS, executor=executor)
        np.testing.assert_allclose(F.values(theta), [e.truth.loss.value for e in experiments])
        np.testing.assert_allclose(F.gradient(theta), gradient, rtol=1e-8)
        products = F.hessian(theta) @ np.eye(P)
        np.testing.assert_allclose(products, dense, atol=1e-8 * np.abs(dense).max())
        here = worker_name()
        assert here not in {executor.submit(worker_name).result() for _ in range(4)}
        assert sum(e.functional.solves for e in experiments) == 0  # all were on workers
        print(f"{worker_count(executor)} workers agree, {F.solves} solves")


if __name__ == "__main__":
    main()

"""Equilibria on cupy arrays: gradients, second order, accuracy and reads from the device."""

from __future__ import annotations

import numpy as np
import pytest
from support.cases import CUPY, FORMS, ROWS, close
from support.cupy_problems import (
    assert_cupy_agrees_with_numpy,
    bratu,
    bratu_equilibrium,
    cupy,
    needs_cupy,
)
from support.places import cupy_label

import mfdeq

NAMES = [
    *ROWS,
    *(f"{name}-float32" for name in ROWS),
    *(f"{name}-{form}" for name in ROWS for form in FORMS),
]


@needs_cupy
@pytest.mark.parametrize("number", range(len(NAMES)), ids=lambda number: NAMES[number])
def test_gradient_equals_its_dense_truth_in_arrays_of_cupy(number):
    case = CUPY[number]
    assert str(case).replace(f"-{cupy_label()}", "") == NAMES[number]
    eq = case.equilibrium()
    gradient = eq.gradient(case.loss)
    for array in (gradient, eq.state, eq.params):
        assert type(array) is cupy.ndarray
        assert array.dtype == case.dtype
    close(gradient, case.truth.gradient, case.rtol)


@needs_cupy
def test_second_order_quantities_agree_with_numpy():
    def compute(xp):
        eq, case = bratu_equilibrium(xp), bratu(xp)
        u, v, w = (case.random(81, seed=s) for s in range(3))
        return (
            eq.total_curvature(u, v),
            eq.second_order(u, v),
            eq.second_order_slice(v) @ u,
            eq.second_order_slice(v).H @ w,
            eq.component_hessian(w) @ v,
            eq.component_hessian(5) @ v,
            eq.component_hessian(np.int64(-1)) @ v,
            eq.curvature(w) @ xp.concatenate([u, v]),
            eq.smallest_singular.value,
        )

    assert_cupy_agrees_with_numpy(compute)


@needs_cupy
def test_products_and_gradients_to_an_accuracy_agree_with_numpy():
    def compute(xp):
        eq, case = bratu_equilibrium(xp, rtol=1e-6), bratu(xp)
        H, v = eq.hessian(case.loss), case.random(81)
        product, error = H.with_error(v)
        return (
            H.to_accuracy(1e-7) @ v,
            eq.gradient(case.loss, rtol=1e-7),
            product,
            eq.backend.norm(error) < 1e-4 * eq.backend.norm(product),
        )

    assert_cupy_agrees_with_numpy(compute, rtol=1e-7)


# Maximal reads from the device in a Hessian product, beyond one per iteration, by solver.
EXTRA_READS = {
    "LU": (mfdeq.Direct(package="superlu"), 8),
    "fronts": (mfdeq.Direct(package="multifrontal"), 8),
    "CG with multigrid": (mfdeq.Krylov("cg", preconditioner=mfdeq.AMG()), 10),
    "GMRES with multigrid": (mfdeq.Krylov(preconditioner=mfdeq.AMG()), 14),
}


@needs_cupy
@pytest.mark.parametrize("columns", [1, 4])
@pytest.mark.parametrize("name", EXTRA_READS)
def test_a_hessian_product_reads_once_per_iteration_for_any_number_of_columns(name, columns):
    counter = pytest.importorskip("cupy._simulated", reason="only the simulation counts reads")
    solver, max_extra_reads = EXTRA_READS[name]
    case = bratu(cupy)
    eq = case.solve(solver=solver)
    loss = mfdeq.LeastSquares(cupy.arange(0, 81, 4), cupy.zeros(21))
    H, V = eq.hessian(loss), case.random(81, columns)
    H @ V
    before, iterations = counter.reads, eq.report.linear.iterations
    H @ V
    new_iterations = eq.report.linear.iterations - iterations
    assert counter.reads - before <= new_iterations + max_extra_reads

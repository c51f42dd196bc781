"""Ranks agree on errors, sizes and callbacks, and leave nothing behind in PETSc."""

import contextlib
import gc
import weakref

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("petsc4py")

from petsc4py import PETSc
from support.petsc_problems import (
    COMM,
    LOSS,
    THETA,
    Cubic,
    L,
    N,
    P,
    Products,
    Twin,
    gathered,
    mat_of,
    on_one_machine,
    on_ranks,
    shell_of,
    vec_of,
)

import mfdeq
import mfdeq.petsc
from mfdeq.petsc import ranks as of_ranks
from mfdeq.petsc.arrays import DistributedArray
from mfdeq.petsc.mats import MatOperator
from mfdeq.report import LinearCounts

RANK, SIZE = COMM.getRank(), COMM.getSize()
LAST = SIZE - 1 == RANK


def collect_garbage():
    gc.collect()
    PETSc.garbage_cleanup(COMM)


def python_mat():
    """An operator, and a weak reference that is dead once PETSc has freed its Mat."""
    context = Products(mat_of(L))  # it lives as long as PETSc has its Mat
    mat = shell_of(context.of, context)
    return MatOperator(on_ranks().of.backend, mat), weakref.ref(context)


def test_mat_held_only_by_a_shell_mat_is_freed():
    inner, context = python_mat()
    outer = mfdeq.petsc.as_mat(2.0 * inner)
    assert outer.getType() == "python"
    del inner, outer
    collect_garbage()
    assert context() is None


def test_mat_held_only_by_a_preconditioner_is_freed():
    A, context = python_mat()
    solver = mfdeq.petsc.KSP(prefix="given_back_", options={"pc_type": "none"})
    held = solver.setup(A)
    aged = held.preconditioned_factor(MatOperator(A.backend, mat_of(L)), LinearCounts(), 60)
    aged.solve(DistributedArray.from_petsc(vec_of(np.ones(N))))
    del A, held, aged
    collect_garbage()
    assert context() is None


def test_sizes_may_be_numpy_integers():
    class Numpy(Cubic):
        state_size, param_size = np.int64(N), np.int32(P)

    eq = mfdeq.petsc.solve(Numpy(), vec_of(THETA))
    np.testing.assert_allclose(gathered(eq.state), gathered(on_ranks().state), atol=1e-9)


def test_available_memory_is_the_same_on_all_ranks(monkeypatch):
    monkeypatch.setattr(of_ranks, "available_bytes", lambda: 10**9 * (1 + RANK))
    memory = of_ranks.Ranks.of(PETSc.Comm(COMM.tompi4py().Dup())).memory
    assert COMM.tompi4py().allgather(memory) == [10**9] * SIZE  # of one machine


def test_fingerprint_works_on_ranks_without_rows():
    first, second = (
        DistributedArray.from_petsc(vec_of(np.array([1.0, x]))).fingerprint() for x in (2.0, 3.0)
    )
    assert first != second
    assert set(COMM.tompi4py().allgather(first)) == {first}


class Breaking(Cubic):
    """The last rank raises away from the start."""

    error: type[Exception]

    def residual(self, h, theta):
        r, moved = super().residual(h, theta), abs(gathered(theta) - THETA).max() > 1e-3
        if LAST and moved:
            raise self.error("no water left")
        return r


def breaking(kind):
    return mfdeq.ReducedFunctional(type("Breaking", (Breaking,), {"error": kind})(), LOSS)


def test_error_caught_on_one_rank_is_caught_on_all():
    functional = breaking(mfdeq.ConvergenceError)
    functional.on_failure = "inf"
    assert functional.value(vec_of(THETA + 1.0)) == np.inf
    assert np.isfinite(functional.value(vec_of(THETA)))


def test_error_has_one_class_on_all_ranks():
    class Local(Exception):
        pass

    elsewhere = mfdeq.DomainError if SIZE > 1 else Local
    known = {FloatingPointError: FloatingPointError, Local: elsewhere}
    for kind, expected in known.items():
        with pytest.raises(expected, match="no water left") as caught:
            breaking(kind).value(vec_of(THETA + 1.0))
        assert caught.type is expected
        assert LAST or f"failed on rank {SIZE - 1} of {SIZE}" in str(caught.value)


def test_callback_of_one_rank_stops_all():
    def minimize(callback):
        functional = mfdeq.ReducedFunctional(Cubic(), LOSS)
        mfdeq.minimize(functional, vec_of(THETA), gtol=1e-9, callback=callback)

    with pytest.raises(mfdeq.ConvergenceError, match="the callback returned True"):
        minimize(lambda theta, step: LAST)

    def raising(theta, step):
        if LAST:
            raise KeyError("of the last rank")

    with pytest.raises(KeyError, match="of the last rank"):
        minimize(raising)


def test_minimize_within_bounds_agrees_for_one_state():
    class One(mfdeq.ResidualModel):
        state_size, param_size = 1, 3

        def residual(self, h, theta):
            return 2.0 * h + h**3 - theta.sum()

        def linearize(self, h, theta):
            return mfdeq.Linearization(
                sp.csr_matrix([[2.0 + 3.0 * h[0] ** 2]]),
                sp.csr_matrix(-np.ones((1, 3))),
                lambda lam: mfdeq.Curvature(state_state=sp.csr_matrix([[6.0 * h[0] * lam[0]]])),
            )

    model = mfdeq.petsc.distributed(One())
    loss = mfdeq.LeastSquares(np.array([0]), np.array([3.0])) + mfdeq.QuadraticPrior(
        0.1, np.zeros(3)
    )
    found, expected = (
        mfdeq.minimize(mfdeq.ReducedFunctional(*of), theta, bounds=(None, 1.0), gtol=1e-9)
        for of, theta in (
            ((model, model.loss(loss)), model.params(0.5 * np.ones(3))),
            ((One(), loss), 0.5 * np.ones(3)),
        )
    )
    assert found.value == pytest.approx(expected.value, rel=1e-10)


def test_singular_precision_is_refused():
    free = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(P, P)).tolil()
    free[0, 0] = free[P - 1, P - 1] = 1.0
    with pytest.raises(mfdeq.ArgumentError, match="0 eigenvalues are negative, 1 zero"):
        mfdeq.Precision(mat_of(free)).solve(vec_of(np.ones(P)))


def test_layout_outlives_the_grid_it_came_from(tmp_path):
    folder = COMM.tompi4py().bcast(tmp_path)
    comm = PETSc.Comm(COMM.tompi4py().Dup())
    dm = PETSc.DMDA().create([N, 1], stencil_width=1, comm=comm)
    model = mfdeq.petsc.distributed(Twin(), comm, state=dm)
    dm.destroy()
    array = np.arange(N, dtype=float)
    mfdeq.petsc.save(folder / "grid.bin", a=model.state(array))
    like = model.state(0.0 * array)
    loaded = mfdeq.petsc.load(folder / "grid.bin", comm=comm, a=like)["a"]
    np.testing.assert_array_equal(np.sort(gathered(loaded)), array)


def test_gathering_other_rows_is_refused():
    model = mfdeq.petsc.distributed(Twin())
    wrong = PETSc.Mat().createDense((N + 9, 2), comm=COMM)
    wrong.setUp()
    wrong.assemble()
    with pytest.raises(mfdeq.ArgumentError, match=f"a dense Mat of {N} rows in this layout"):
        model.gathered_state(wrong)


def test_snes_takes_only_a_ksp_and_its_state_is_checked():
    eq = mfdeq.petsc.solve(Cubic(), vec_of(THETA), method="snes", solver="auto")
    np.testing.assert_allclose(gathered(eq.state), gathered(on_ranks().state), atol=1e-8)
    with pytest.raises(mfdeq.ArgumentError, match=r"expected 'auto' or an mfdeq\.petsc\.KSP"):
        mfdeq.petsc.solve(Cubic(), vec_of(THETA), method="snes", solver=mfdeq.Direct())
    with pytest.raises(mfdeq.ArgumentError, match="takes no rtol, progress"):
        mfdeq.petsc.solve(Cubic(), vec_of(THETA), method="snes", rtol=1e-8, progress=True)
    loose = mfdeq.petsc.KSP("loose_", {"snes_rtol": 1e-2})
    with pytest.raises(mfdeq.ConvergenceError, match=r"SNES ended too early.*Set -loose_snes_rtol"):
        mfdeq.petsc.solve(Cubic(), vec_of(THETA), method="snes", solver=loose)


def test_loss_in_the_numbering_of_numpy_is_refused():
    model = mfdeq.petsc.distributed(Twin())
    eq = mfdeq.petsc.solve(model, model.params(THETA))
    for refused in (LOSS, 2.0 * LOSS + model.loss(LOSS)):
        for use in (
            eq.gradient,
            eq.hessian,
            lambda loss: mfdeq.ReducedFunctional(model, loss),
            lambda loss: mfdeq.verify(model, model.params(THETA), loss),
        ):
            with pytest.raises(mfdeq.ArgumentError, match=r"give model\.loss\(loss\)"):
                use(refused)
    expected = on_one_machine().gradient(LOSS)
    np.testing.assert_allclose(gathered(eq.gradient(model.loss(LOSS))), expected, atol=1e-8)


def test_network_without_diagonal_entries_is_solved():
    J = sp.diags([0.3, 0.2], [-1, 1], shape=(N, N)).tocsr()
    W = sp.eye(N, P, format="csr")

    class Network(mfdeq.FixedPointModel):
        state_size, param_size = N, P

        def __init__(self):
            self.J, self.W = mat_of(J), mat_of(W)

        def map(self, h, theta):
            into = h.duplicate()
            self.J.mult(h, into)
            self.W.multAdd(theta, into, into)
            return into

        def linearize(self, h, theta):
            return mfdeq.Linearization(self.J, self.W)

    eq = mfdeq.petsc.solve(Network(), vec_of(THETA), method="newton")
    expected = np.linalg.solve(np.eye(N) - J.toarray(), W @ THETA)
    np.testing.assert_allclose(gathered(eq.state), expected, atol=1e-9)


def test_preconditioner_without_a_transpose_is_an_error():
    solver = mfdeq.petsc.KSP(prefix="no_transpose_", options={"pc_type": "sor"})
    with pytest.raises(mfdeq.ArgumentError, match="no_transpose_pc_type"):
        mfdeq.petsc.solve(Cubic(), vec_of(THETA), solver=solver).gradient(LOSS)


@pytest.mark.parametrize("options", [{"-pc_type": "lu"}, {"mfdeq_pc_type": "lu"}, "-pc_type lu"])
def test_options_with_a_dash_or_the_prefix_are_refused(options):
    with pytest.raises(mfdeq.ArgumentError, match="without the dash and the prefix 'mfdeq_'"):
        mfdeq.petsc.KSP(options=options)


@pytest.mark.parametrize("ending", [".npz", ".h5"])
def test_checkpoint_is_written_in_the_folder_of_the_first_rank(tmp_path, ending):
    """Each rank has a tmp_path of its own."""
    path = tmp_path / f"run{ending}"
    for _ in range(2):
        functional = mfdeq.ReducedFunctional(Cubic(), LOSS)
        mfdeq.minimize(functional, vec_of(THETA), gtol=1e-9, checkpoint=path)
    assert path.exists() == (RANK == 0)


def test_loss_not_summed_over_the_ranks_is_refused():
    def value(h, theta):
        return 1.0 + 0.5 * float(h.array_r @ h.array_r)

    loss = mfdeq.Loss(value, d_state=lambda h, theta: h)
    functional = mfdeq.ReducedFunctional(Cubic(), loss)
    refused = pytest.raises(mfdeq.ModelError, match=r"expected one number, got .* on the ranks")
    with refused if SIZE > 1 else contextlib.nullcontext():
        assert np.isfinite(functional.value(vec_of(THETA)))


def test_loss_that_is_nan_on_one_rank_is_refused():
    loss = mfdeq.Loss(lambda h, theta: np.nan if LAST else 1.0, d_state=lambda h, theta: h)
    with pytest.raises(mfdeq.ModelError, match="value of the loss holds NaN"):
        mfdeq.ReducedFunctional(Cubic(), loss).value(vec_of(THETA))

"""Checkpoints of runs on ranks, and Vecs in PETSc's files."""

import numpy as np
import pytest

pytest.importorskip("petsc4py")

from petsc4py import PETSc
from support.petsc_problems import (
    COMM,
    DATA,
    LOSS,
    OBSERVED,
    THETA,
    Cubic,
    N,
    P,
    gathered,
    hessians,
    on_ranks,
    vec_of,
)

import mfdeq
import mfdeq.petsc
from mfdeq.files.checkpoints import digest, read_state


@pytest.fixture
def folder(tmp_path):
    """The first rank's tmp_path, on all ranks."""
    return COMM.tompi4py().bcast(tmp_path)


def lacks_hdf5(name):
    return name.endswith(".h5") and not PETSc.Sys.hasExternalPackage("hdf5")


@pytest.mark.parametrize("ending", [".npz", ".h5"])
def test_minimization_resumes_in_the_same_bits(folder, ending):
    if lacks_hdf5(ending):
        pytest.skip("this PETSc is built without HDF5")

    def run(**options):
        functional = mfdeq.ReducedFunctional(Cubic(), LOSS)
        return mfdeq.minimize(functional, vec_of(THETA), gtol=1e-9, **options)

    whole = run(checkpoint=folder / f"whole{ending}")
    with pytest.raises(mfdeq.ConvergenceError, match="the callback returned True"):
        run(checkpoint=folder / f"run{ending}", callback=lambda theta, step: step.length > 0)
    found = run(checkpoint=folder / f"run{ending}")
    # On a CPU the same bits, as on one machine.
    assert found.value == whole.value
    np.testing.assert_array_equal(found.params.gathered(), whole.params.gathered())
    assert found.report.equilibria == whole.report.equilibria
    # One file, which one machine reads.
    if ending == ".npz":
        theta = read_state(folder / f"run{ending}", "a minimization")[1]["at"]["theta"]
    else:
        name = "state.at.theta"
        theta = mfdeq.petsc.load(folder / f"run{ending}", name, comm=PETSc.COMM_SELF)[name].array_r
    np.testing.assert_array_equal(theta, found.params.gathered())
    assert not COMM.getRank() or list(folder.glob("*.part")) == []
    with pytest.raises(mfdeq.CheckpointError, match="theta0"):
        mfdeq.minimize(
            mfdeq.ReducedFunctional(Cubic(), LOSS),
            vec_of(THETA + 1.0),
            checkpoint=folder / f"run{ending}",
        )
    with pytest.raises(mfdeq.CheckpointError, match="cannot be written"):
        run(checkpoint=folder / "nowhere" / "run.npz")


@pytest.mark.parametrize("ending", [".npz", ".h5"])
def test_new_program_resumes_before_it_knows_any_layout(folder, ending, monkeypatch):
    if lacks_hdf5(ending):
        pytest.skip("this PETSc is built without HDF5")
    ranks = on_ranks().of.backend.device

    def run():
        monkeypatch.setattr(ranks, "_rows", {0: ranks.rows(0)})  # as at the start of a program
        loss = mfdeq.LeastSquares(OBSERVED, DATA, 4.0) + mfdeq.QuadraticPrior(0.1)
        functional = mfdeq.ReducedFunctional(Cubic(), loss)
        options = {"gtol": 1e-9, "checkpoint": folder / f"new{ending}"}
        return mfdeq.minimize(functional, vec_of(THETA), **options).value

    assert run() == run()


@pytest.mark.parametrize("M", [False, True])
@pytest.mark.parametrize("name", ["pairs.npz", "pairs.h5"])
def test_eigenpair_search_resumes_in_the_same_bits(folder, name, M):
    if lacks_hdf5(name):
        pytest.skip("this PETSc is built without HDF5")
    H = hessians()[0]
    given = {"M": mfdeq.Precision(vec_of(np.linspace(1.0, 2.0, P)))} if M else {}

    def run(path, most, H=H):
        options = {"basis": 14, "checkpoint": path, "checkpoint_every": 10, "max_products": most}
        return mfdeq.eigsh(H, 4, rtol=1e-10, **options, **given)

    whole = run(folder / f"whole-{name}", None)
    with pytest.raises(mfdeq.ConvergenceError, match="Raise max_products"):
        run(folder / name, 15)
    found = run(folder / name, None)
    np.testing.assert_array_equal(found.values, whole.values)
    np.testing.assert_array_equal(found.vectors.gathered(), whole.vectors.gathered())
    assert found.report.products == whole.report.products
    again = run(folder / name, None)  # its result is there
    np.testing.assert_array_equal(again.values, whole.values)
    with pytest.raises(mfdeq.CheckpointError, match="another"):
        run(folder / name, None, on_ranks().of.hessian(LOSS).gauss_newton)
    with pytest.raises(mfdeq.CheckpointError, match="cannot be written"):
        run(folder / "nowhere" / name, None)


@pytest.mark.parametrize("name", ["damaged.npz", "damaged.h5"])
def test_damaged_checkpoint_is_an_error(folder, name):
    if lacks_hdf5(name):
        pytest.skip("this PETSc is built without HDF5")
    if COMM.getRank() == 0:
        (folder / name).write_bytes(b"no such thing")
    COMM.barrier()
    with pytest.raises(mfdeq.CheckpointError, match="or a damaged one"):
        mfdeq.eigsh(hessians()[0], 2, checkpoint=folder / name)


def test_fingerprints_and_random_numbers_do_not_depend_on_ranks():
    backend = on_ranks().of.backend
    n = 3 * 2**16 + 12_345
    ranks = backend.device
    ranks.agree_on_rows(n)
    x = backend.random(n, 2, seed=4)
    assert isinstance(x, mfdeq.petsc.arrays.DistributedArray)
    first = np.random.default_rng(4).standard_normal((2**16, 2))
    whole = x.gathered()
    np.testing.assert_array_equal(whole[: 2**16], first)
    assert abs(np.corrcoef(whole[: 2**16, 0], whole[2**16 : 2**17, 0])[0, 1]) < 0.02
    alone = mfdeq.petsc.ranks.Ranks.of(PETSc.COMM_SELF)
    assert digest(x) == digest(
        mfdeq.petsc.arrays.DistributedArray(whole, alone, alone.agree_on_rows(n))
    )
    changed = x.like(x.local.copy())
    if COMM.getRank() == COMM.getSize() - 1:
        changed.local[-1, 1] = np.nextafter(changed.local[-1, 1], 9.0)
    assert digest(changed) != digest(x)
    theta, h = on_ranks().of.params, on_ranks().of.state
    rows = alone.agree_on_rows(P), alone.agree_on_rows(N)
    once = [
        mfdeq.petsc.arrays.DistributedArray(x.gathered(), alone, r)
        for x, r in zip((theta, h), rows, strict=True)
    ]
    assert digest(backend.xp.concat([theta, h])) == digest(backend.xp.concat(once))


@pytest.mark.parametrize("name", ["run.h5", "run.bin"])
def test_saved_vecs_load_on_other_ranks(folder, name):
    if lacks_hdf5(name):
        pytest.skip("this PETSc is built without HDF5")
    eq = on_ranks()
    mfdeq.petsc.save(folder / name, state=eq.state, gradient=eq.of.gradient(LOSS))
    found = mfdeq.petsc.load(folder / name, "state", gradient=vec_of(THETA))
    np.testing.assert_array_equal(gathered(found["state"]), gathered(eq.state))
    np.testing.assert_array_equal(gathered(found["gradient"]), gathered(eq.gradient(LOSS)))
    alone = mfdeq.petsc.load(folder / name, "state", comm=PETSc.COMM_SELF)
    np.testing.assert_array_equal(alone["state"].array_r, gathered(eq.state))


@pytest.mark.parametrize("name", ["grid.h5", "grid.bin"])
def test_vecs_of_a_grid_are_saved_in_natural_order(folder, name):
    if lacks_hdf5(name):
        pytest.skip("this PETSc is built without HDF5")
    grid = PETSc.DMDA().create([7, 6], stencil_width=1, comm=COMM)
    x = grid.createGlobalVec()
    (xs, xe), (ys, ye) = grid.getRanges()
    x.array = np.add.outer(7.0 * np.arange(ys, ye), np.arange(xs, xe)).ravel()
    plain = mfdeq.petsc.arrays.DistributedArray.from_petsc(x)
    mfdeq.petsc.save(folder / name, x=x, y=2.0 * plain)
    found = mfdeq.petsc.load(folder / name, x=x, y=x)
    np.testing.assert_array_equal(found["x"].array_r, x.array_r)
    np.testing.assert_array_equal(found["y"].array_r, 2.0 * x.array_r)
    if name.endswith(".bin"):
        alone = mfdeq.petsc.load(folder / name, "x", comm=PETSc.COMM_SELF)
        np.testing.assert_array_equal(alone["x"].array_r, np.arange(42.0))
    with pytest.raises(
        mfdeq.CheckpointError, match="'y' of this size, found none or a damaged one"
    ):
        mfdeq.petsc.load(folder / name, "x", y=vec_of(THETA))


@pytest.mark.parametrize("name", ["blocks.h5", "blocks.bin"])
def test_vecs_with_several_values_a_node_load_with_and_without_blocks(folder, name):
    """Two sizes of blocks in one file, read into Vecs like them and into Vecs without blocks."""
    if lacks_hdf5(name):
        pytest.skip("this PETSc is built without HDF5")
    grids = [PETSc.DMDA().create([7, 11], dof=dof, stencil_width=1, comm=COMM) for dof in (1, 2)]
    one, two = (grid.createGlobalVec() for grid in grids)
    for x in (one, two):
        x.array = np.arange(*x.getOwnershipRange())
    mfdeq.petsc.save(folder / name, one=one, two=two)
    found = mfdeq.petsc.load(folder / name, one=one, two=two)
    plain = mfdeq.petsc.load(folder / name, "one", "two")
    for key, x, grid in (("one", one, grids[0]), ("two", two, grids[1])):
        np.testing.assert_array_equal(found[key].array_r, x.array_r)
        natural = grid.getAO().app2petsc(np.arange(x.getSize(), dtype=PETSc.IntType))
        mine = slice(*plain[key].getOwnershipRange())
        np.testing.assert_array_equal(plain[key].array_r, gathered(x)[natural][mine])


def test_unusable_files_and_arguments_are_errors(folder):
    with pytest.raises(mfdeq.ArgumentError, match="x: expected a PETSc Vec, got a int"):
        mfdeq.petsc.save(folder / "run.bin", x=3)
    with pytest.raises(mfdeq.CheckpointError, match="cannot be read"):
        mfdeq.petsc.load(folder / "none.bin", "state")
    with pytest.raises(mfdeq.CheckpointError, match="cannot be written"):
        mfdeq.petsc.save(folder / "no" / "run.bin", state=on_ranks().state)
    with pytest.raises(mfdeq.ArgumentError, match="nothing to save"):
        mfdeq.petsc.save(folder / "run.bin")


DAMAGED_VECS = {
    "empty": lambda data: b"",
    "text": lambda data: b"no such thing",
    "truncated": lambda data: data[: len(data) // 2],
    "another class": lambda data: b"\x01" + data[1:],
    "huge": lambda data: data[:4] + (2**31 - 2).to_bytes(4, "big") + data[8:],
    "negative": lambda data: data[:4] + b"\xff" * 4 + data[8:],
}


@pytest.mark.parametrize("what", DAMAGED_VECS)
def test_damaged_vecs_are_an_error(folder, what):
    mfdeq.petsc.save(folder / "whole.bin", state=on_ranks().state)
    COMM.barrier()
    if COMM.getRank() == 0:
        data = (folder / "whole.bin").read_bytes()
        (folder / "damaged.bin").write_bytes(DAMAGED_VECS[what](data))
    COMM.barrier()
    with pytest.raises(mfdeq.CheckpointError, match="or a damaged one"):
        mfdeq.petsc.load(folder / "damaged.bin", "state")


@pytest.mark.parametrize("name", ["flipped.npz", "flipped.h5"])
def test_flipped_bytes_of_a_checkpoint_are_an_error(folder, name):
    if lacks_hdf5(name):
        pytest.skip("this PETSc is built without HDF5")
    H = hessians()[0]
    whole = mfdeq.eigsh(H, 2, checkpoint=folder / name)
    entries = np.sort(whole.vectors.gathered()[:, 0])
    COMM.barrier()
    if COMM.getRank() == 0:
        data = bytearray((folder / name).read_bytes())
        at = data.index(entries[-1].tobytes())
        data[at] ^= 1
        (folder / name).write_bytes(data)
    COMM.barrier()
    with pytest.raises(mfdeq.CheckpointError, match="or a damaged one"):
        mfdeq.eigsh(H, 2, checkpoint=folder / name)

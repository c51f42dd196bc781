"""Checkpoints of runs on ranks, written by the first of them, and Vecs in files of PETSc's."""

import numpy as np
import pytest

pytest.importorskip("petsc4py")

from petsc4py import PETSc
from problems import COMM, LOSS, THETA, Cubic, gathered, spread, vec_of

import mfdeq
import mfdeq.petsc
from mfdeq.checkpoints import read


@pytest.fixture
def folder(tmp_path):
    """One of the first rank's, for all."""
    return COMM.tompi4py().bcast(tmp_path)


def test_a_minimization_goes_on(folder):
    def run(**options):
        functional = mfdeq.ReducedFunctional(Cubic(), LOSS)
        return mfdeq.minimize(functional, vec_of(THETA), gtol=1e-9, **options)

    whole = run(checkpoint=folder / "whole.npz")
    with pytest.raises(mfdeq.ConvergenceError, match="the callback said so"):
        run(checkpoint=folder / "run.npz", callback=lambda theta, step: step.length > 0)
    found = run(checkpoint=folder / "run.npz")
    # On a CPU the same bits, as on one machine.
    assert found.value == whole.value
    np.testing.assert_array_equal(found.params.gathered(), whole.params.gathered())
    assert found.report.equilibria == whole.report.equilibria
    # One file, which one machine reads.
    _, saved = read(folder / "run.npz", "a minimization")
    np.testing.assert_array_equal(saved["at"]["theta"], found.params.gathered())
    with pytest.raises(mfdeq.CheckpointError, match="theta0"):
        mfdeq.minimize(
            mfdeq.ReducedFunctional(Cubic(), LOSS),
            vec_of(THETA + 1.0),
            checkpoint=folder / "run.npz",
        )
    with pytest.raises(mfdeq.CheckpointError, match="cannot be written"):
        run(checkpoint=folder / "nowhere" / "run.npz")


@pytest.mark.parametrize("name", ["run.h5", "run.bin"])
def test_vecs_in_one_file(folder, name):
    if name.endswith(".h5") and not PETSc.Sys.hasExternalPackage("hdf5"):
        pytest.skip("this PETSc is built without HDF5")
    eq = spread()
    mfdeq.petsc.save(folder / name, state=eq.state, gradient=eq.of.gradient(LOSS))
    found = mfdeq.petsc.load(folder / name, "state", gradient=vec_of(THETA))
    np.testing.assert_array_equal(gathered(found["state"]), gathered(eq.state))
    np.testing.assert_array_equal(gathered(found["gradient"]), gathered(eq.gradient(LOSS)))
    alone = mfdeq.petsc.load(folder / name, "state", comm=PETSc.COMM_SELF)
    np.testing.assert_array_equal(alone["state"].array_r, gathered(eq.state))


def test_files_that_are_not_there(folder):
    with pytest.raises(mfdeq.CheckpointError, match="cannot be read"):
        mfdeq.petsc.load(folder / "none.bin", "state")
    with pytest.raises(mfdeq.CheckpointError, match="cannot be written"):
        mfdeq.petsc.save(folder / "no" / "run.bin", state=spread().state)
    with pytest.raises(mfdeq.ArgumentError, match="nothing to save"):
        mfdeq.petsc.save(folder / "run.bin")

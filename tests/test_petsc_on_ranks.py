"""The tests of mfdeq.petsc pass on three ranks, and no failure leaves a rank waiting."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(
    find_spec("petsc4py") is None or shutil.which("mpiexec") is None,
    reason="petsc4py, or mpiexec, is not installed",
)
# Open MPI shall start more ranks than there are cores, and run as root in a container. Other MPIs
# do not read these.
OPEN_MPI_SETTINGS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
}


def run_on_ranks(ranks, *arguments, timeout=600):
    path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        ["mpiexec", "-n", str(ranks), sys.executable, *arguments],
        env={**os.environ, **OPEN_MPI_SETTINGS, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run_failing(mode, ranks=2):
    done = run_on_ranks(ranks, str(HERE / "support" / "failing_ranks.py"), mode, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_petsc_tests_and_doctests_pass_on_three_ranks():
    """On three ranks rows are split unevenly. On one they are `pytest tests/petsc` alone."""
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--doctest-modules"]
    tests += [str(HERE / "petsc"), str(HERE.parent / "mfdeq" / "petsc")]
    done = run_on_ranks(3, *tests, timeout=1200)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout


def test_sums_on_the_workers_of_mpi4py_agree_with_the_dense_truth():
    program = str(HERE / "support" / "sum_on_mpi_executor.py")
    done = run_on_ranks(3, "-m", "mpi4py.futures", program, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.strip().endswith("2 workers agree, 5 solves")


def test_example_prints_the_same_on_ranks_and_on_one_machine(tmp_path):
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    example = [str(HERE.parent / "examples" / "diffusion.py"), "--size", "small", "--output"]
    found = []
    for i, petsc in enumerate(([], ["--petsc"])):
        done = run_on_ranks(1 + i, *example, str(tmp_path / f"{i}.png"), *petsc)
        assert done.returncode == 0, done.stderr
        found.append(np.array(re.findall(r"\d+\.\d{4,}", done.stdout), dtype=float))
        assert (tmp_path / f"{i}.png").exists()
    assert found[0].size == 3 + 8
    np.testing.assert_allclose(*found, rtol=1e-8)


@pytest.mark.parametrize("ranks", [2, 3])
def test_error_of_one_rank_is_raised_on_all(ranks):
    code, words = run_failing("raising", ranks)
    assert code == 0, words
    assert f"rank {ranks - 1}: ValueError: no water left" in words
    for rank in range(ranks - 1):
        assert f"rank {rank}: ValueError: Raising.residual(h, theta), of shapes" in words
        assert f"failed on rank {ranks - 1} of {ranks}: ValueError: no water left" in words


@pytest.mark.parametrize("ranks", [2, 3])
def test_fault_of_one_rank_is_one_error_on_all_and_the_program_goes_on(ranks):
    done = run_on_ranks(ranks, str(HERE / "support" / "fault_on_one_rank.py"))
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-5000:]
    assert "all cases ran" in said
    assert not [line for line in said.splitlines() if line.startswith("WRONG")]


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("uncaught", ["ValueError: no water left", "aborts all ranks"]),
        ("stuck", ["no water left", "the other ranks have not returned in 2 s"]),
        ("script", ["RuntimeError: no script left", "rank 1 aborts all ranks"]),
        ("dying", ["signal 9"]),
        ("leaving", ["SystemExit: 4", "it left Leaving.residual"]),
    ],
)
def test_failed_rank_aborts_all(mode, words):
    code, said = run_failing(mode)
    assert code != 0
    assert all(word in said for word in words), said


@pytest.mark.parametrize("mode", ["live objects", "uneven garbage"])
def test_programs_exit_cleanly(mode):
    code, said = run_failing(mode)
    assert code == 0, said
    assert said.count("done") == 2


@pytest.mark.parametrize(
    ("mode", "error", "words"),
    [
        ("disagreeing", "ArgumentError", ["the same total size on every rank", "(81, None)"]),
        ("sequential", "ModelError", ["got a Vec on 1 ranks with 80 entries"]),
        ("not finite", "ModelError", ["NotFinite.residual holds NaN or infinity"]),
        ("communicators", "ModelError", ["params and h0 on one device, got 2 ranks and 1 ranks"]),
        ("not converged", "ConvergenceError", ["PETSc says DIVERGED_MAX_IT"]),
    ],
)
def test_wrong_input_is_an_error_on_all_ranks(mode, error, words):
    code, said = run_failing(mode)
    assert code == 0, said
    for rank in range(2):
        [line] = re.findall(rf"rank {rank}: (?!.*rank \d: ).*", said)
        assert line.startswith(f"rank {rank}: {error}: ")
        assert all(word in line for word in words), said

"""The simulation of cupy has no names and parameters that the real cupy lacks.

This needs cupy and its CUDA libraries (``pip install "cupy-cuda13x[ctk]"``), but no device.
"""

from __future__ import annotations

import enum
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import array_api_compat.numpy as compat
import numpy as np
import pytest
from support.cases import close
from support.cupy_names import public_names

from mfdeq.arrays import cuda
from mfdeq.arrays.backend import Backend
from mfdeq.operators.matrix_operator import Diagonal, Matrix
from mfdeq.operators.operator import IdentityMinus, Product, Stacked, Sum, Zero

if os.environ.get("MFDEQ_CUPY") == "simulated":
    pytest.skip("cupy is simulated here", allow_module_level=True)
if importlib.util.find_spec("cupy") is None:
    pytest.skip("cupy is not installed", allow_module_level=True)
try:
    from cupyx.scipy.sparse import linalg
except ImportError:
    pytest.skip("cupy has no CUDA libraries", allow_module_level=True)

TESTS = Path(__file__).parents[1]
# Attributes of cupyx's sparse matrices that their classes lack.
INSTANCE_ATTRIBUTES = {"data", "row", "col", "indices", "indptr", "offsets", "has_canonical_format"}
INCOMPLETE = {"cupy.diff"}  # simulated without prepend= and append=


@pytest.fixture(scope="module")
def names():
    """The names of the simulation, from a process of its own, and those of the real cupy."""
    env = {**os.environ, "PYTHONPATH": str(TESTS / "simulated")}
    out = subprocess.run(
        [sys.executable, TESTS / "support" / "cupy_names.py"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(out.stdout), public_names()


def test_every_simulated_name_exists_in_cupy(names):
    simulated, real = names
    assert len(simulated) > 400
    beyond = {
        name
        for name in set(simulated) - set(real)
        if name.split(".")[-1] not in INSTANCE_ATTRIBUTES
    }
    assert beyond == set()


def test_simulated_functions_have_the_parameters_of_cupys(names):
    simulated, real = names
    compared = {
        name: (given, real[name])
        for name, given in simulated.items()
        if given is not None and real.get(name) is not None and name not in INCOMPLETE
    }
    assert len(compared) > 250
    assert {name: pair for name, pair in compared.items() if pair[0] != pair[1]} == {}


ABSENT = [
    "cupy.ndarray.__index__",
    "cupy.ndarray.__contains__",
    "cupy.ndarray.__array_namespace__",
    "cupy.ndarray.setflags",
    "cupy.ndarray.__hash__",
    "cupy.vecdot",
    "cupy.linalg.vector_norm",
    "cupyx.scipy.sparse.bsr_matrix",
    "cupyx.scipy.sparse.lil_matrix",
    "cupyx.scipy.sparse.linalg.lgmres",
    "cupyx.scipy.sparse.linalg.bicg",
]


@pytest.mark.parametrize("name", ABSENT)
def test_a_name_that_cupy_lacks_is_not_simulated(names, name):
    simulated, real = names
    assert name not in real
    assert name not in simulated


def test_devices_cannot_be_hashed_and_full_memory_is_a_memory_error():
    import cupy

    with pytest.raises(TypeError, match="unhashable"):
        hash(cupy.cuda.Device(0))
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    assert "Out of memory allocating" in str(cupy.cuda.memory.OutOfMemoryError(8, 0))


# Operators that derive from the real LinearOperator of cupyx, with arrays on the host.


@dataclass(frozen=True)
class NumpyArraysCupyxOperators(Backend):
    """numpy's arrays with cupyx's classes of operators."""

    @property
    def sparse_linalg(self):
        return linalg


BACKEND = NumpyArraysCupyxOperators(compat, np.dtype("float64"), "cpu")
RNG = np.random.default_rng(0)
W, U, F = (RNG.standard_normal(shape) for shape in ((4, 4), (4, 3), (7, 3)))
OPERATORS = {
    "matrix": (Matrix(BACKEND, U), U),
    "identity minus": (IdentityMinus(Matrix(BACKEND, W)), np.eye(4) - W),
    "diagonal": (Diagonal(BACKEND, np.arange(1.0, 5)), np.diag(np.arange(1.0, 5))),
    "stacked": (Stacked(Matrix(BACKEND, U)), np.vstack([np.eye(3), U])),
    "product": (Product(Matrix(BACKEND, W), Matrix(BACKEND, U)), W @ U),
    "sum": (Sum(Matrix(BACKEND, W), Diagonal(BACKEND, np.ones(4))), W + np.eye(4)),
    "zero": (Zero(BACKEND, (4, 3)), np.zeros((4, 3))),
    "scaled": (3.0 * Matrix(BACKEND, U), 3 * U),
    "transposed": (Matrix(BACKEND, U).H, U.T),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_composes_with_those_of_the_real_cupyx(name):
    op, D = OPERATORS[name]
    rows, columns = D.shape
    x, X, Y = (RNG.standard_normal(s) for s in ((columns,), (columns, 2), (rows, 2)))
    G = RNG.standard_normal(D.shape)
    assert isinstance(op, linalg.LinearOperator)
    assert linalg.aslinearoperator(op) is op
    assert op.shape == D.shape
    assert op.dtype == np.float64
    foreign = linalg.LinearOperator(
        D.shape,
        matvec=lambda x: G @ x,
        rmatvec=lambda y: G.T @ y,
        matmat=lambda X: G @ X,
        rmatmat=lambda Y: G.T @ Y,
        dtype=float,
    )
    for found, expected in (
        (op @ x, D @ x),
        (op * X, D @ X),
        (op(x), D @ x),
        (op.dot(X), D @ X),
        (op.matvec(x[:, None]), D @ x[:, None]),
        (op.matmat(X), D @ X),
        (op.rmatvec(Y[:, 0]), D.T @ Y[:, 0]),
        (op.rmatmat(Y), D.T @ Y),
        (op.H @ Y, D.T @ Y),
        (op.T @ Y, D.T @ Y),
        (op.H.H @ X, D @ X),
        (op @ X[:, :0], D @ X[:, :0]),
        (Y.T @ op, Y.T @ D),
        (-op @ X, -D @ X),
        ((op - 2 * op) @ X, -D @ X),
        ((op * np.float64(2)) @ X, 2 * D @ X),
        ((np.float64(2) * op).H @ Y, 2 * D.T @ Y),
        ((op.H @ op) @ X, D.T @ (D @ X)),
        ((op + foreign) @ X, (D + G) @ X),
        ((foreign + op) @ x, (D + G) @ x),
        ((op + foreign).H @ Y, (D + G).T @ Y),
        ((op.H @ foreign) @ X, D.T @ (G @ X)),
        ((foreign.H @ op).H @ X, D.T @ (G @ X)),
    ):
        close(found, expected, 1e-12)
    if rows == columns:
        assert (op**2).shape == op.shape
    with pytest.raises(ValueError, match="Scalar operands are not allowed"):
        op @ 2.0


# The kernels, and the bindings of cuDSS.


@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("index", ["int", "long long"])
def test_the_runtime_compiler_of_nvidia_compiles_the_kernels(real, index):
    from cupy_backends.cuda.libs import nvrtc

    program = nvrtc.createProgram(cuda.source(real, index), "cuda.cu", (), ())
    try:
        nvrtc.compileProgram(program, ("--gpu-architecture=compute_90",))
    except nvrtc.NVRTCError as error:
        raise AssertionError(nvrtc.getProgramLog(program)) from error
    code = nvrtc.getPTX(program)
    text = code if isinstance(code, str) else code.decode()
    for name in ("csr_vector", "csr_block", "column_dots", "advance", "redirect", "chebyshev"):
        assert f".entry {name}(" in text


def test_simulated_functions_and_constants_of_cudss_equal_the_real_ones():
    """Functions are compared by the number of their arguments, constants by their values."""
    real = pytest.importorskip(
        "nvmath.bindings.cudss", reason="nvmath-python is not installed", exc_type=ImportError
    )
    place = TESTS / "simulated/nvmath/bindings/cudss.py"
    spec = importlib.util.spec_from_file_location("simulated_cudss", place)
    simulated = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(simulated)
    seen = set()
    for name, ours in vars(simulated).items():
        if getattr(ours, "__module__", "") != spec.name or name.startswith("_"):
            continue
        if inspect.isfunction(ours):
            text = getattr(real, name).__doc__.splitlines()[0]
            arguments = [x for x in text[text.index("(") + 1 : text.index(")")].split(",") if x]
            assert len(inspect.signature(ours).parameters) == len(arguments), text
            seen.add(name)
        elif issubclass(ours, enum.IntEnum):
            constants = {c.name: c.value for c in getattr(real, name)}
            if name != "DataParam":  # whose values are internal to the bindings
                assert {c.name: c.value for c in ours}.items() <= constants.items()
            assert {c.name for c in ours} <= set(constants)
            seen.add(name)
    assert issubclass(real.cuDSSError, Exception)
    assert len(seen) > 15

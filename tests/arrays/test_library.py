"""Array libraries: one registered from outside is found and used, and can be removed again."""

from __future__ import annotations

import ast
from pathlib import Path

import array_api_strict as strict
import numpy as np
import pytest
import scipy.sparse as sp
from support.strict_library import StrictLibrary, StrictOperator, strict_library

import mfdeq
from mfdeq.arrays.backend import Backend
from mfdeq.arrays.library import (
    HOST,
    LIBRARY_MODULES,
    ArrayLibrary,
    find_library,
    library_of,
    register,
    unregister,
)

STRICT_ARRAY = type(strict.asarray(1.0))


class Cosine(mfdeq.FixedPointModel):
    """h = cos h + theta on strict arrays."""

    state_size = param_size = 2

    def map(self, h, theta):
        return strict.cos(h) + theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(strict.eye(2) * -strict.sin(h), strict.eye(2))


# Finding a library.


@pytest.mark.parametrize("x", [np.ones(2), np.float64(1.0), sp.eye_array(2)], ids=type)
def test_arrays_and_matrices_of_numpy_and_scipy_belong_to_the_host(x):
    assert find_library(type(x)) is HOST
    assert library_of(x) is HOST


def test_a_users_subclass_belongs_to_the_library_of_its_base():
    class Annotated(np.ndarray):
        pass

    assert find_library(Annotated) is HOST


def test_a_class_of_no_library_is_found_in_none_and_computed_with_as_on_the_host():
    assert find_library(Cosine) is None
    assert find_library(STRICT_ARRAY) is None
    assert library_of(strict.ones(2)) is HOST


# A library registered from outside.


def test_a_registered_library_is_found_by_the_class_of_its_arrays():
    with strict_library() as library:
        assert find_library(STRICT_ARRAY) is library
        assert library_of(strict.ones(2)) is library
        assert Backend.of(strict.ones(2)).library is library
        assert find_library(np.ndarray) is HOST


def test_the_library_registered_last_comes_first():
    with strict_library() as first:
        with strict_library() as second:
            assert find_library(STRICT_ARRAY) is second
        assert find_library(STRICT_ARRAY) is first


def test_removing_a_library_leaves_the_registry_as_it_was():
    before = [find_library(cls) for cls in (np.ndarray, sp.csr_array, STRICT_ARRAY)]
    with strict_library():
        pass
    assert [find_library(cls) for cls in (np.ndarray, sp.csr_array, STRICT_ARRAY)] == before
    assert Backend.of(strict.ones(2)).library is HOST


def test_a_library_that_is_not_registered_cannot_be_removed():
    with pytest.raises(ValueError, match="not in list"):
        unregister(StrictLibrary())


def test_messages_call_a_library_by_its_name():
    with strict_library():
        backend = Backend.of(strict.ones(2))
        with pytest.raises(mfdeq.ModelError, match=r"of array-api-strict on .*numpy\.ndarray"):
            backend.asarray(np.ones(2))
        with pytest.raises(mfdeq.ModelError, match="which is in array-api-strict on"):
            backend.asarray(sp.csr_array(np.eye(2)))


def test_messages_call_a_library_without_a_name_by_its_namespace():
    with pytest.raises(mfdeq.ModelError, match=r"of array_api_strict on .*numpy\.ndarray"):
        Backend.of(strict.ones(2)).asarray(np.ones(2))


def test_results_are_arrays_and_operators_of_the_registered_library():
    expected = np.array([0.7390851332151607, 0.7390851332151607])  # the fixed point of cos
    with strict_library() as library:
        loss = mfdeq.Loss(lambda h, theta: float(strict.sum(h)), d_state=lambda h, theta: 0 * h + 1)
        eq = mfdeq.solve(Cosine(), strict.zeros(2), solver=mfdeq.Neumann())
        assert isinstance(eq.state, STRICT_ARRAY)
        np.testing.assert_allclose(np.from_dlpack(eq.state), expected, rtol=1e-9)
        assert isinstance(eq.sensitivity, StrictOperator)
        gradient = eq.gradient(loss)
        assert isinstance(gradient, STRICT_ARRAY)
        np.testing.assert_allclose(np.from_dlpack(gradient), 1 / (1 + np.sin(expected)), rtol=1e-9)
        np.testing.assert_allclose(
            np.from_dlpack(eq.sensitivity @ strict.ones(2)), 1 / (1 + np.sin(expected)), rtol=1e-9
        )
        assert library.transfers > 0


def test_what_a_library_overrides_is_used():
    class Ones(StrictLibrary):
        """Draws ones in place of random numbers."""

        def random(self, backend, shape, seed):
            return backend.xp.ones(shape, dtype=backend.dtype)

    library = Ones()
    register(library)
    try:
        drawn = Backend.of(strict.zeros(2)).random(3, seed=0)
    finally:
        unregister(library)
    np.testing.assert_array_equal(np.from_dlpack(drawn), np.ones(3))


# The list of libraries.


@pytest.mark.parametrize("name", LIBRARY_MODULES)
def test_the_module_listed_for_a_package_registers_the_library_of_its_classes(name):
    if name == "petsc4py":
        pytest.importorskip("petsc4py.PETSc", reason="petsc4py is not installed")
    array_class = type("Array", (), {"__module__": f"{name}.arrays"})
    library = find_library(array_class)
    assert isinstance(library, ArrayLibrary)
    assert name in library.packages
    assert set(library.packages) <= set(LIBRARY_MODULES)


def names_in(path):
    """The top-level packages that a module imports anywhere, and those in its strings."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.partition(".")[0]


PACKAGE = Path(mfdeq.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_no_module_outside_arrays_knows_an_array_library_by_name(module):
    expected = {
        "arrays/library.py": {"numpy", "cupy", "cupyx"},
        "arrays/cupy_library.py": {"cupy", "cupyx"},
        "arrays/cuda.py": {"cupy"},
        "arrays/compiled.py": {"numpy"},
        "arrays/jit.py": {"numpy"},
        "arrays/loops.py": {"numpy"},
        "arrays/diagonals.py": {"numpy"},
        "arrays/diagonal_loops.py": {"numpy"},
        "arrays/dense_blocks.py": {"numpy"},
        "arrays/block_loops.py": {"numpy"},
        "arrays/sample_loops.py": {"numpy"},
    }
    known = {"numpy", "cupy", "cupyx"} & set(names_in(PACKAGE / module))
    assert known == expected.get(module, set())


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith("petsc/")])
def test_only_petsc_and_the_list_of_libraries_know_petsc4py(module):
    assert ("petsc4py" in names_in(PACKAGE / module)) == (module == "arrays/library.py")

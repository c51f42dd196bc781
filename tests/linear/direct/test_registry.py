"""The registry of direct packages: a new one is named, chosen and reported like the rest."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from support.matrices import diffusion, operator

import mfdeq
from mfdeq.linear.direct import registry
from mfdeq.linear.direct.costs import UNKNOWN_FILL, Fill, PackageCost
from mfdeq.linear.direct.package import DirectPackage, unsuitable

FILL = Fill(entries=1e5, operations=1e7)


class Inverse:
    """A dense inverse that does not solve with the transpose."""

    solves_adjoint = False

    def __init__(self, matrix):
        self.inverse = np.linalg.inv(matrix.toarray())
        self.nbytes = self.inverse.nbytes

    def solve(self, b, adjoint=False):
        assert not adjoint
        return self.inverse @ b


class InversePackage(DirectPackage):
    name = "inverse"
    title = "dense inverse"
    cost_on_host = PackageCost(unknown=0.0, operation=0.0, entry=0.0)
    max_operations = math.inf

    def obstacle(self, A):
        return "it has more than 1000 unknowns" if A.shape[0] > 1000 else ""

    def default_max_operations(self, A):
        return self.max_operations

    def factorize(self, A, matrix, max_operations=math.inf):
        if max_operations < A.shape[0]:
            raise unsuitable(self, "it takes too many operations")
        return Inverse(matrix)


@pytest.fixture
def package(monkeypatch):
    """A package that is registered for one test."""
    monkeypatch.setitem(registry.PACKAGES, "inverse", package := InversePackage())
    return package


def check(factor, matrix):
    b = np.random.default_rng(0).standard_normal((matrix.shape[0], 2))
    np.testing.assert_allclose(matrix @ factor.solve(b), b, atol=1e-8)
    np.testing.assert_allclose(matrix.T @ factor.solve_adjoint(b), b, atol=1e-8)


def test_a_registered_package_factorizes_by_name_and_by_default(package):
    matrix = diffusion(12, 0.4)
    for solver in (mfdeq.Direct(package="inverse"), mfdeq.Direct()):
        factor = solver.setup(matrix)
        assert factor.name == "Direct (dense inverse)"
        check(factor, matrix)
        # Its factors do not serve the adjoint: the transpose is factorized on its own.
        assert factor.counts.setups == 2
        assert factor.nbytes == factor.counts.bytes == 2 * 8 * 144**2


def test_an_obstacle_is_an_error_by_name_and_another_package_by_default(package):
    matrix = diffusion(40)
    with pytest.raises(mfdeq.ArgumentError, match=r"'inverse'.*more than 1000 unknowns"):
        mfdeq.Direct(package="inverse").setup(matrix)
    assert mfdeq.Direct().setup(matrix).name == "Direct (SuperLU)"


def test_a_package_with_too_many_operations_is_followed_by_the_next(package):
    package.max_operations = 10
    assert mfdeq.Direct().setup(diffusion(12)).name == "Direct (SuperLU)"


def test_auto_knows_the_costs_of_packages_without_an_obstacle(package):
    costs = registry.package_costs(operator(diffusion(12)), FILL)
    assert min(costs, key=lambda name: sum(costs[name])) == "inverse"
    assert "superlu" in costs
    assert "inverse" not in registry.package_costs(operator(diffusion(40)), FILL)


def test_factors_beyond_memory_are_left_to_a_package_that_pivots():
    costs = registry.package_costs(operator(diffusion(12)), UNKNOWN_FILL)
    assert costs == {"superlu": (math.inf, math.inf, math.inf)}


def test_a_block_takes_as_long_as_its_columns_if_the_factors_are_sparse():
    cost = PackageCost(0.0, 0.0, entry=2.0, block_share=0.25, min_block_entries=100.0)
    for entries, expected in ((99.0, 5 * 1980.0), (100.0, 2 * 2000.0)):
        assert cost.block_solve(10, Fill(10 * entries, 0.0), 5) == expected


def test_an_unknown_package_is_an_error_that_lists_the_registered_ones(package):
    with pytest.raises(mfdeq.ArgumentError, match=r"'superlu'.*'inverse', got 'mumps'"):
        mfdeq.Direct(package="mumps")


@pytest.mark.parametrize("name", registry.PACKAGES)
def test_messages_of_a_package_advise_no_direct_solver(name):
    error = unsuitable(registry.PACKAGES[name], "its fronts are too badly conditioned")
    assert f"{error}".count("mfdeq.Direct") == 1  # what was called
    assert error.reason == "its fronts are too badly conditioned"


@pytest.mark.parametrize("name", registry.PACKAGES)
def test_every_package_is_described_for_users(name):
    page = Path(__file__).parents[3] / "docs" / "solvers.rst"
    for text in (mfdeq.Direct.__doc__, page.read_text(encoding="utf-8")):
        assert f'``"{name}"``' in text


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_a_failed_direct_solve_advises_no_direct_solver():
    factor = mfdeq.Direct().setup(np.diag([1e-300, 1.0]))
    with pytest.raises(mfdeq.ConvergenceError, match="larger rtol") as caught:
        factor.solve(np.array([1e10, 1.0]))  # the solution overflows
    assert "mfdeq.Direct" not in str(caught.value)

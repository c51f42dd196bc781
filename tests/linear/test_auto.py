"""What "auto" chooses, what it knows beforehand, and its way back."""

from __future__ import annotations

import math

import numpy as np
import pyamg
import pytest
import scipy.sparse as sp
from benchmarks.systems import (
    convection,
    convection_in_volume,
    diffusion,
    elasticity,
    layer,
    network,
    random_graph,
)
from scipy.sparse.linalg import aslinearoperator
from support.cases import close

import mfdeq
from mfdeq.arrays import jit
from mfdeq.arrays.backend import Backend
from mfdeq.linear import Auto, Reused, auto, candidates, costs
from mfdeq.linear.candidates import Candidate, Examined
from mfdeq.linear.choice import Choice
from mfdeq.linear.direct import cholmod, fill, multifrontal, pardiso, registry
from mfdeq.linear.operands import operator_of
from mfdeq.linear.preconditioners import amg_cycle, hierarchies
from mfdeq.report import LinearCounts


def true_fill(matrix):
    return fill.exact_fill(matrix.tocsc())


@pytest.mark.parametrize(
    ("system", "within"),
    [
        (diffusion(160, 2), 1.3),
        (diffusion(100, 2), 1.6),
        (diffusion(20, 3), 2.0),
        (convection(160), 1.3),
        (diffusion(24, 3), 2.0),
        (elasticity(90), 2.0),
        (network(120), 2.5),
        (random_graph(6000, 3), 1.2),
        (random_graph(5000, 6), 1.2),
    ],
    ids=lambda value: getattr(value, "title", ""),
)
def test_fill_is_estimated_without_a_factorization(system, within):
    """Of surfaces, volumes, systems and graphs with long edges, without being told which."""
    estimated, true = fill.estimate_fill(system.A), true_fill(system.A)
    assert true.entries / within <= estimated.entries <= within * true.entries
    assert true.operations / within**2 <= estimated.operations <= within**2 * true.operations


def test_fill_of_many_components_is_estimated():
    blocks = np.random.default_rng(0).standard_normal((200, 50, 50)) + 10 * np.eye(50)
    matrix = sp.block_diag(list(blocks), format="csr")
    estimated, true = fill.estimate_fill(matrix), true_fill(matrix)
    assert abs(estimated.entries / true.entries - 1) < 0.1


def test_fill_of_a_singular_part_is_unknown():
    assert fill.estimate_fill(sp.csr_matrix((9000, 9000))) is fill.UNKNOWN_FILL


def dense(n):
    return np.eye(n) + 0.1 * np.random.default_rng(0).standard_normal((n, n)) / n**0.5


def symmetric_contraction(n):
    """With a spectrum on a line, which GMRES needs half of Neumann's iterations for."""
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0]
    return (Q * np.linspace(-0.7, 0.7, n)) @ Q.T


def hard(n):
    """With singular values from 1 to 1e6."""
    rng = np.random.default_rng(0)
    Q, R = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    return (Q * np.logspace(0, 6, n)) @ R


LU = ("SuperLU", "CHOLMOD")  # the latter where kvxopt is installed


@pytest.fixture(autouse=True)
def without_extras(monkeypatch):
    """The choices of these tests are those without PARDISO and compiled loops."""
    monkeypatch.setattr(pardiso, "has_pardiso", lambda: False)
    monkeypatch.setattr(jit, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("matrix", "picked"),
    [
        (dense(30), ["dense LU"]),
        (aslinearoperator(3 * dense(30)), ["dense LU), because A is known by its products only"]),
        (aslinearoperator(3 * dense(900)), ["gmres with no preconditioner"]),
        (aslinearoperator(dense(900)), ["Neumann, because A is known by its products only; on a"]),
        (aslinearoperator(np.eye(1200) - symmetric_contraction(1200)), ["cg with no"]),
        (aslinearoperator(hard(300)), ["dense LU), because A is known by its products only"]),
        (diffusion(30, 2).A, LU),
        (diffusion(100, 2).A, LU),
        (convection(100).A, ["SuperLU"]),
        (elasticity(100).A, ["multifrontal", "CHOLMOD"]),
        (diffusion(40, 3).A, ["cg with AMG"]),
        (layer(16, 400).A, ["Direct (dense blocks), because A is dense blocks on its diagonal"]),
    ],
    ids=[
        "dense",
        "few products",
        "products",
        "contraction",
        "symmetric contraction",
        "hard for iterations",
        "small",
        "surface",
        "convection",
        "elasticity",
        "volume",
        "layers",
    ],
)
def test_auto_chooses_and_records_why(matrix, picked):
    chosen = Auto(solves=100 if sp.issparse(matrix) else None)
    factor = chosen.setup(operator_of(matrix))
    assert any(name in chosen.choices[0] for name in picked)
    b = np.random.default_rng(1).standard_normal(matrix.shape[0])
    size = np.linalg.norm(b)
    rtol = 1e-8 if matrix.shape[0] == 300 else 1.1e-10
    assert np.linalg.norm(matrix @ factor.solve(b) - b) <= rtol * size
    assert np.linalg.norm(matrix.T @ factor.solve_adjoint(b) - b) <= rtol * size
    assert factor.counts.setups == 1


@pytest.mark.parametrize("definite", [True, False])
def test_symmetric_products_are_solved_by_cg_only_if_definite(definite):
    n, rng = 3000, np.random.default_rng(0)
    values = np.linspace(1, 30, n)
    values[: 0 if definite else n // 2] *= -1
    matrix = sp.diags(values).tocsr()
    chosen = Auto()
    b = rng.standard_normal(n)
    factor = chosen.setup(operator_of(aslinearoperator(matrix)))
    close(matrix @ factor.solve(b), b, 1e-8)
    assert ("cg" in factor.name) == definite


@pytest.mark.parametrize("solver", [mfdeq.Direct(), mfdeq.Krylov(preconditioner=mfdeq.ILU())])
def test_products_are_assembled_for_what_needs_entries(solver):
    matrix = diffusion(12, 2).A
    b = np.ones(144)
    products = operator_of(aslinearoperator(matrix))
    close(matrix @ solver.setup(products).solve(b), b, 1e-9)
    close(matrix.T @ solver.setup(products).solve_adjoint(b), b, 1e-9)


def test_the_advice_for_a_large_function_names_its_sparsity():
    pytest.importorskip("jax")
    n = 3000
    model = mfdeq.from_jax(lambda h, t: h + h**3 - t, np.zeros(n), np.zeros(n), "residual")
    with pytest.raises(mfdeq.ArgumentError, match=r"sparsity='detect'.*mfdeq\.from_jax"):
        mfdeq.solve(model, np.ones(n), solver=mfdeq.Krylov(preconditioner=mfdeq.ILU()))


def test_the_same_matrix_gives_the_same_choice():
    A = operator_of(diffusion(40, 3).A)
    assert len({tuple(Auto(solves).setup(A).auto.choices) for solves in (100, 100)}) == 1


def test_a_choice_holds_for_later_matrices_of_the_same_kind(monkeypatch):
    chosen = Auto()
    matrix = diffusion(100, 2).A
    chosen.setup(operator_of(matrix))
    monkeypatch.setattr(candidates, "estimate_fill", None)  # would fail if it were asked again
    chosen.setup(operator_of(2.0 * matrix))
    assert len(chosen.choices) == 1


@pytest.fixture
def iterative_only(monkeypatch):
    """As if any LU were beyond the machine's memory."""
    monkeypatch.setattr(Backend, "available_bytes", lambda self: 0.0)
    monkeypatch.setattr(auto, "MAX_LU_SIZE", 10)


def test_trials_go_on_until_one_converges(iterative_only):
    """Strong advection: the first hierarchy does not converge, AIR does."""
    chosen = Auto(solves=100)
    factor = chosen.setup(operator_of(convection(80).A))
    assert factor.current.solver.preconditioner.method == "air"
    assert "gmres with AMG (about " in chosen.choices[0]  # iterations: it did not converge


def test_lu_is_the_last_resort_where_no_iteration_converges(iterative_only):
    n = 30
    matrix = (diffusion(n, 2).A / n**2 - 2.5 * sp.identity(n * n)).tocsr()
    chosen = Auto()
    factor = chosen.setup(operator_of(matrix))
    b = np.ones(n * n)
    close(matrix @ factor.solve(b), b, 1e-9)
    assert "not converged" in chosen.choices[0] or "failed" in "".join(chosen.choices)
    assert "LU" in chosen.choices[-1]


def test_a_failing_choice_is_replaced_for_good(iterative_only):
    A = operator_of(diffusion(60, 2).A)
    chosen = Auto(solves=100)
    factor = chosen.setup(A)
    assert "cg with AMG" in factor.name
    factor.current.M = None
    factor.current.solver = mfdeq.Krylov("cg", max_iterations=2)  # as if it had become hard
    b = np.ones(A.shape[0])
    close(A @ factor.solve(b), b, 1e-9)
    assert any("failed" in choice for choice in chosen.choices)
    assert "cg with AMG" not in chosen.setup(A).name


@pytest.mark.parametrize("metis", [False, True])
def test_graphs_with_long_edges_are_left_to_orderings_that_know_them(monkeypatch, metis):
    monkeypatch.setattr(multifrontal, "has_metis", lambda: metis)
    monkeypatch.setattr(cholmod, "has_kvxopt", lambda: True)
    monkeypatch.setattr(pardiso, "has_pardiso", lambda: True)
    long_edges = fill.Fill(1e7, 1e10, compact=False)
    packages = set(registry.package_costs(operator_of(network(40).A), long_edges))
    assert packages == ({"multifrontal", "superlu"} if metis else {"superlu"})


def seen_setups(monkeypatch):
    """Record the names of preconditioners that are set up, with the unknowns."""
    names = []
    for kind in (mfdeq.AMG, mfdeq.ILU, mfdeq.Jacobi):

        def setup(self, A, original=kind.setup):
            names.append(self.description)
            return original(self, A)

        monkeypatch.setattr(kind, "setup", setup)
    return names


WINDY_VOLUME = convection_in_volume(20).A


def test_a_trial_whose_set_up_cannot_pay_is_not_begun(monkeypatch):
    """AIR takes minutes where its rows fill up, and AMG more than a small LU."""
    names = seen_setups(monkeypatch)
    assert "Direct" in Auto(solves=100).setup(operator_of(WINDY_VOLUME)).name
    assert "AMG (air)" not in names
    assert "ILU" not in names
    names.clear()
    assert "Direct" in Auto(solves=1).setup(operator_of(diffusion(100, 2).A)).name
    assert names == ["Jacobi"]


def test_a_trial_takes_no_more_iterations_than_the_best_alternative_is_worth():
    A = operator_of(WINDY_VOLUME)
    trial = candidates.sparse_candidates(A)[0]
    for budget, most in ((math.inf, candidates.TRIAL_ITERATIONS_OF_GMRES_WITH_JACOBI), (1e7, 9)):
        counted = LinearCounts()
        monitored = trial.solver.setup(A, counted)
        candidates._iterations(A, monitored, 10, budget)
        assert counted.iterations <= most


def test_the_first_trial_costs_a_share_of_an_estimate_and_no_scaling():
    """A direct solver that needs neither may be the choice."""
    A = operator_of(diffusion(100, 2).A)
    trial = candidates.sparse_candidates(A)[0]
    estimate = costs.estimate_cost(A.shape[0])
    assert 0.0 < trial.trial_budget <= 0.2 * estimate
    for budget, expected in (
        (0.0, candidates.MIN_FIRST_TRIAL_ITERATIONS),
        (math.inf, candidates.TRIAL_ITERATIONS),
    ):
        counted = LinearCounts()
        factor = trial.solver.setup(A, counted)
        candidates._iterations(A, factor, 1, math.inf, budget)
        assert counted.iterations == expected
        assert "scaling" not in vars(factor)  # solves are judged by the scaling of A
    assert "_rounded_scaling" not in vars(A)


def test_a_random_graph_is_iterated_on_before_anything_is_set_up(monkeypatch):
    """Even for a hundred solves: its LU fills up, and so would the levels of AMG."""
    names = seen_setups(monkeypatch)
    matrix = random_graph(10_000, 4).A
    for solves in (None, 1, 100):
        assert "cg with Jacobi" in Auto(solves).setup(operator_of(matrix)).name
    assert set(names) == {"Jacobi"}


def test_the_number_of_solves_decides():
    A = operator_of(WINDY_VOLUME)
    few, many = Auto(solves=1).setup(A), Auto(solves=1000).setup(A)
    assert "Krylov" in few.name
    assert "Direct" in many.name
    assert "for 1000 solves" in many.auto.choices[0]
    assert Auto().setup(A).name == few.name


@pytest.mark.parametrize("solves", [0, -1, 2.5, True, "many"])
def test_a_number_of_solves_that_is_not_positive_is_refused(solves):
    with pytest.raises(mfdeq.ArgumentError, match=r"solves of mfdeq\.Auto: expected a positive"):
        mfdeq.Auto(solves=solves)
    with pytest.raises(mfdeq.ArgumentError, match=r"columns of mfdeq\.Auto: expected a positive"):
        mfdeq.Auto(columns=solves)


def sides(n, count):
    return np.random.default_rng(2).standard_normal((count, n))


def test_a_factorization_takes_over_when_the_solves_have_cost_as_much():
    chosen, counts = Auto(), LinearCounts()
    A = operator_of(WINDY_VOLUME)
    factor = chosen.setup(A, counts)
    names = [factor.name]
    for b in sides(8000, 25):
        close(WINDY_VOLUME @ factor.solve(b), b, 1e-8)
        names.append(factor.name)
    assert "Krylov" in names[0]
    assert "Direct" in names[-1]
    switch = names.index(names[-1])
    assert 1 < switch < 25
    assert set(names[switch:]) == {names[-1]}  # for good
    assert counts.setups == 1 + len(set(names[1:]) - {names[0]})
    # A second run takes the same course, since nothing is timed.
    again = Auto().setup(A)
    course = [again.name]
    for b in sides(8000, 25):
        again.solve(b)
        course.append(again.name)
    assert course == names
    # It is set up at once for the next matrix of the same kind.
    assert "Direct" in chosen.setup(operator_of((2.0 * WINDY_VOLUME).tocsr())).name


def test_the_columns_of_a_block_count_as_solves():
    factor = Auto().setup(operator_of(WINDY_VOLUME))
    B = sides(8000, 200).T
    close(WINDY_VOLUME @ factor.solve(B), B, 1e-8)
    assert "Direct" in factor.name


def of_two_packages(solves=None, columns=1, setup=0.0):
    """One is cheaper for single solves, the other in blocks, after a set-up worth 64 solves."""
    return Choice(
        [
            Candidate(mfdeq.Direct(package="superlu"), setup, 1.0, block_share=1.0),
            Candidate(mfdeq.Direct(package="multifrontal"), 64.0, 1.2, block_share=0.25),
        ],
        solves,
        columns,
    )


def test_wide_blocks_lead_to_a_package_that_gains_by_them():
    A, choice = operator_of(WINDY_VOLUME), of_two_packages()
    choice.decide(A, in_use=False)
    superlu, used = choice.current.solver, []
    assert choice.keeps(superlu, 1)
    assert choice.keeps(superlu, 7)
    for _ in range(5):
        if not choice.keeps(choice.current.solver, 32):
            choice.decide(A, 32)
        choice.charge(None, 32)
        used.append(choice.current.solver.package)
    # When the set-up of the other would have paid for the columns so far.
    assert used == ["superlu", "superlu", "superlu", "multifrontal", "multifrontal"]
    assert choice.keeps(choice.current.solver, 32)


@pytest.mark.parametrize(
    ("solves", "columns", "package"),
    [(1, 32, "superlu"), (4, 32, "multifrontal"), (128, 1, "superlu"), (400, 1, "superlu")],
)
def test_the_width_of_blocks_is_known_from_a_hint(solves, columns, package):
    choice = of_two_packages(solves, columns)
    choice.decide(operator_of(WINDY_VOLUME), in_use=False)
    assert choice.current.solver.package == package


def test_a_solver_is_kept_when_its_factor_of_a_nearby_matrix_fails():
    """The error goes to `Reused`, which sets up a factor of the new matrix by the same solver."""
    A, choice, counts = operator_of(WINDY_VOLUME), of_two_packages(setup=1.0), LinearCounts()
    factor = auto._AutoFactor(A, Auto(), choice, counts).starting_with(None)
    far = (WINDY_VOLUME + sp.diags_array(np.geomspace(1e-3, 1e6, 8000)[::-1])).tocsr()
    nearby = factor.preconditioned_factor(operator_of(far), counts, 3)
    with pytest.raises(mfdeq.ConvergenceError, match="of a nearby matrix"):
        nearby.solve(np.ones(8000))
    assert choice.current.solver.package == "superlu"
    assert len(choice.candidates) == 2


def test_the_last_error_is_raised_when_every_candidate_has_failed():
    class Hopeless(Candidate):
        known = False

        def examine(self, A, solves, budget):
            return Examined([], None, ["hopeless"])

    lu = Candidate(mfdeq.Direct(package="superlu"), 0.0, 1.0)
    choice = Choice([lu, Hopeless(None, 1.0, 1.0)], None, 1)
    choice.drop(mfdeq.ConvergenceError("no digits"))
    with pytest.raises(mfdeq.ConvergenceError, match="no digits"):
        choice.decide(operator_of(WINDY_VOLUME))


def test_a_block_is_solved_by_another_package_once_that_is_cheaper(monkeypatch):
    factor = Auto().setup(operator_of(WINDY_VOLUME))
    monkeypatch.setattr(factor.choice, "candidates", (of_two_packages()).candidates)
    factor.choice._use(factor.choice.candidates[0], "a test")
    B = sides(8000, 32).T
    names = []
    for _ in range(5):
        close(WINDY_VOLUME @ factor.solve(B), B, 1e-8)
        names.append(factor.name)
    assert names == 3 * ["Direct (SuperLU)"] + 2 * ["Direct (multifrontal)"]
    assert "in blocks" in factor.auto.choices[-1]


def test_the_costs_know_the_number_of_threads(monkeypatch):
    monkeypatch.setattr(jit, "is_available", lambda: True)
    A, fill = operator_of(WINDY_VOLUME), registry.Fill(1e7, 1e10)
    found = {}
    for number in (1, 2):
        with mfdeq.threads(number):
            packages = registry.package_costs(A, fill)
            found[number] = costs.machine_of(A).product_entry, packages
    (one, alone), (two, shared) = found.values()
    assert 0.5 * one < two < 0.6 * one
    assert shared["superlu"] == alone["superlu"]
    assert shared["multifrontal"][0] < 0.8 * alone["multifrontal"][0]


def test_a_cheap_factorization_is_estimated_by_a_small_part():
    """By the growth in a volume, which is the most that a mesh has."""
    matrix = convection(100).A
    found, true = fill.estimate_fill(matrix), true_fill(matrix)
    assert true.operations < found.operations < 10 * true.operations
    assert true.entries < found.entries < 3 * true.entries


def test_levels_that_would_fill_up_are_not_made(monkeypatch):
    """One coarse level of AMG("air") shows that the others would have many more entries than A."""
    system = convection_in_volume(24)
    made = []
    monkeypatch.setattr(amg_cycle, "levels_of", lambda *_: made.append(1))
    trial = candidates._Trial(mfdeq.Krylov("gmres", preconditioner=mfdeq.AMG("air")), 0.0, 0.0)
    monkeypatch.setattr(candidates, "MAX_AIR_COMPLEXITY", 8.0)
    found = trial.examine(operator_of(system.A), 10, math.inf)
    assert "times the entries of A" in found.notes[0]
    assert (found.candidates, found.factor, made) == ([], None, [])


def test_the_complexity_of_levels_is_predicted_from_the_first():
    A = convection(64).A
    levels = pyamg.air_solver(sp.csr_matrix(A), max_coarse=hierarchies.MAX_COARSE).levels
    actual = sum(level.A.nnz for level in levels) / A.nnz
    assert actual / 2 < hierarchies.air_complexity(operator_of(A)) < 2 * actual


def test_forgetting_returns_to_the_first_solver():
    factor = Auto().setup(operator_of(WINDY_VOLUME))
    first, (b, *others) = factor.name, sides(8000, 25)
    x = factor.solve(b)
    for other in others:
        factor.solve(other)
    assert factor.name != first
    factor.forget()
    assert factor.name == first
    np.testing.assert_array_equal(factor.solve(b), x)


def test_copies_of_a_factor_share_what_has_been_set_up():
    """As equilibria of a linear model do, whose matrices are equal."""
    reused, counts = Reused(Auto()), LinearCounts()
    for b in sides(8000, 25):
        factor = reused.setup(operator_of(WINDY_VOLUME.copy()), counts)
        close(WINDY_VOLUME @ factor.solve(b), b, 1e-8)
    assert "Direct" in factor.working.name
    assert counts.setups == 2


def test_solves_along_a_path_lead_to_a_factorization():
    """Solves with aged preconditioners count, too."""
    chosen = Auto()
    reused, counts = Reused(chosen), LinearCounts()
    for k, b in enumerate(sides(8000, 30)):
        matrix = (WINDY_VOLUME + 1e-4 * k * sp.identity(8000)).tocsr()
        factor = reused.setup(operator_of(matrix), counts)
        close(matrix @ factor.solve(b), b, 1e-8)
    assert "Direct" in chosen.choices[-1]
    assert counts.setups <= 4


def test_solves_of_saddle_points_by_pardiso_are_refined():
    """Their zeros on the diagonal lead to perturbed pivots."""
    fill_of, package = fill.Fill(1e6, 1e7), registry.PACKAGES["pardiso"]
    definite = sp.csr_array(diffusion(40, 2).A)
    saddle = sp.block_array([[definite, sp.eye_array(1600)], [sp.eye_array(1600), None]])
    plain, refined = (
        package.cost(operator_of(sp.csr_array(x))).one_solve(3200, fill_of)
        for x in (sp.block_diag([definite, definite]), saddle)
    )
    assert refined > 1.3 * plain


@pytest.mark.parametrize("matrix", [diffusion(100, 2).A, convection(100).A, WINDY_VOLUME])
def test_pardiso_is_chosen_where_it_is_installed(matrix, monkeypatch):
    pytest.importorskip("pypardiso", reason="the pardiso extra is not installed")
    monkeypatch.undo()
    monkeypatch.setattr(cholmod, "has_kvxopt", lambda: False)  # about as good in the plane
    factor = Auto(solves=2).setup(operator_of(matrix))
    assert factor.name == "Direct (PARDISO)"
    b = np.ones(matrix.shape[0])
    close(matrix @ factor.solve(b), b, 1e-9)


def test_compiled_loops_make_the_multifrontal_factorization_cheaper(monkeypatch):
    A = operator_of(diffusion(240, 2).A)
    compact = fill.Fill(1e6, 1e8)
    before = registry.package_costs(A, compact)["multifrontal"]
    monkeypatch.setattr(jit, "pays", lambda entries: True)
    after = registry.package_costs(A, compact)["multifrontal"]
    assert after[0] < 0.5 * before[0]
    assert after[1] == before[1]

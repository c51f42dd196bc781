"""A model as an implicit component: its partial and total derivatives, and its failures."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from support.cases import close

import mfdeq
import mfdeq.openmdao

om = pytest.importorskip("openmdao.api", reason="OpenMDAO is not installed")
checks = pytest.importorskip("openmdao.utils.assert_utils", reason="OpenMDAO is not installed")

THETA = np.array([2.0, 1.0, 0.5, 2.0, 1.0])
INPUTS = {"a": 2, "b": {"shape": (3, 1), "units": "m"}}
OUTPUTS = {"x": {"shape": (2,), "ref": 100.0, "res_ref": 7.0}, "y": 1}


def residual(h, theta):
    return np.stack(
        [
            h[0] ** 3 + h[0] * theta[0] - theta[1] * h[1],
            h[1] + np.sin(h[0]) * theta[2] - theta[3] + 0.1 * h[2],
            3.0 * h[2] - h[0] * theta[4],
        ]
    )


def three_unknowns(**fields):
    return mfdeq.from_function(residual, 3, 5, "residual", initial_state=np.ones(3), **fields)


class Cosine(mfdeq.FixedPointModel):
    """A map with N = 2 and P = 1."""

    state_size, param_size = 2, 1

    def map(self, h, theta):
        return np.array([0.5 * np.cos(h[1]) + theta[0], 0.3 * np.sin(h[0]) * theta[0]])

    def linearize(self, h, theta):
        return mfdeq.Linearization(
            np.array([[0.0, -0.5 * np.sin(h[1])], [0.3 * np.cos(h[0]) * theta[0], 0.0]]),
            np.array([[1.0], [0.3 * np.sin(h[0])]]),
        )


def problem_of(*subsystems, mode="auto", **values):
    problem = om.Problem()
    for i, system in enumerate(subsystems):
        problem.model.add_subsystem(f"part_{i}", system, promotes=["*"])
    problem.setup(mode=mode)
    problem.set_solver_print(level=-1)
    for name, value in values.items():
        problem.set_val(name, value)
    return problem


@pytest.mark.filterwarnings("ignore:.*\n.*has zero derivatives")
@pytest.mark.parametrize("solved", [True, False])
@pytest.mark.parametrize("name", ["residual", "map"])
def test_partial_derivatives_pass_the_checks_of_openmdao(name, solved):
    """At an equilibrium, and at a point that is none."""
    if name == "map":
        component, values = mfdeq.openmdao.component(Cosine()), {"theta": 0.7, "h": [0.2, 0.4]}
    else:
        component = mfdeq.openmdao.component(three_unknowns(), INPUTS, OUTPUTS)
        values = {"a": THETA[:2], "b": THETA[2:, None], "x": [0.3, 0.8], "y": 0.6}
    problem = problem_of(component, **values)
    if solved:
        problem.run_model()
    else:
        problem.final_setup()
    partials = problem.check_partials(out_stream=None, method="fd", form="central")
    checks.assert_check_partials(partials, atol=1e-7, rtol=1e-6)
    assert any(abs(block["J_fwd"]).max() > 0.1 for block in partials["part_0"].values())


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_total_derivatives_are_those_of_the_sensitivity(mode):
    problem = problem_of(
        mfdeq.openmdao.component(three_unknowns(), INPUTS, OUTPUTS),
        om.ExecComp("J = x[0]**2 + x[1] * y", x=np.zeros(2)),
        mode=mode,
        a=THETA[:2],
        b=THETA[2:, None],
    )
    problem.run_model()
    eq = mfdeq.solve(three_unknowns(), THETA)
    h = eq.state
    close(np.append(problem.get_val("x"), problem.get_val("y")), h, 1e-12)
    totals = problem.compute_totals("J", ["a", "b"])
    found = np.concatenate([totals["J", name].ravel() for name in "ab"])
    close(found, eq.sensitivity.H @ np.array([2.0 * h[0], h[2], h[1]]), 1e-10)


class Feedback(om.ExplicitComponent):
    """The parameters of the model from its own state and from four numbers u, by y = M u + C h."""

    M = np.random.default_rng(1).standard_normal((5, 4)) / 4.0
    C = np.random.default_rng(2).standard_normal((5, 3)) / 10.0

    def setup(self):
        self.add_input("u", np.ones(4))
        self.add_input("h", np.ones(3))
        self.add_output("theta", np.ones(5))
        self.declare_partials("theta", "u", val=self.M)
        self.declare_partials("theta", "h", val=self.C)

    def compute(self, inputs, outputs):
        outputs["theta"] = THETA + self.M @ inputs["u"] + self.C @ inputs["h"]


@pytest.mark.filterwarnings("ignore:.*treated as atomic")
@pytest.mark.parametrize("solver", ["newton", "gauss-seidel"])
@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_a_coupled_group_has_the_derivatives_of_the_coupled_equations(mode, solver):
    group = om.Group()
    group.add_subsystem("feedback", Feedback(), promotes=["*"])
    group.add_subsystem("model", mfdeq.openmdao.component(three_unknowns()), promotes=["*"])
    if solver == "newton":
        group.nonlinear_solver = om.NewtonSolver(solve_subsystems=False, maxiter=20, atol=1e-12)
        group.linear_solver = om.DirectSolver(assemble_jac=False)
    else:
        group.nonlinear_solver = om.NonlinearBlockGS(maxiter=60, atol=1e-13, rtol=1e-13)
        group.linear_solver = om.ScipyKrylov(atol=1e-13, rtol=1e-13)
    u = np.array([0.3, -0.2, 0.5, 0.1])
    problem = problem_of(group, mode=mode, u=u)
    problem.run_model()

    def coupled(h, u):
        return residual(h, THETA + Feedback.M @ u + Feedback.C @ h)

    eq = mfdeq.solve(mfdeq.from_function(coupled, 3, 4, "residual"), u, np.ones(3))
    close(problem.get_val("h"), eq.state, 1e-9)
    close(problem.compute_totals("h", "u")["h", "u"], eq.sensitivity.toarray(), 1e-8)


def test_an_optimizer_of_openmdao_finds_the_minimum():
    component = mfdeq.openmdao.component(Cosine())
    problem = problem_of(component, om.ExecComp("J = (h[0] - 1)**2", h=np.zeros(2)))
    problem.model.add_design_var("theta", lower=-1.0, upper=2.0)
    problem.model.add_objective("J")
    problem.driver = om.ScipyOptimizeDriver(optimizer="SLSQP", tol=1e-12, disp=False)
    problem.setup()
    problem.set_val("theta", 0.1)
    problem.run_driver()
    assert problem.get_val("h")[0] == pytest.approx(1.0, abs=1e-6)


def test_one_solve_serves_the_value_and_all_derivatives_at_a_point():
    component = mfdeq.openmdao.component(three_unknowns())
    problem = problem_of(component, theta=THETA)
    for _ in range(3):
        problem.run_model()
        problem.compute_totals("h", "theta")
    assert component.equilibria.solves == 1
    problem.set_val("theta", THETA + 0.1)
    problem.run_model()
    assert component.equilibria.solves == 2


def test_the_solve_starts_from_the_outputs():
    model = mfdeq.from_function(lambda h, theta: h**2 - theta, 1, 1, "residual")
    problem = problem_of(mfdeq.openmdao.component(model), theta=4.0, h=3.0)
    problem.run_model()
    close(problem.get_val("h"), [2.0], 1e-12)
    problem.set_val("h", -3.0)
    problem.run_model()
    close(problem.get_val("h"), [-2.0], 1e-12)


def test_outputs_at_which_the_component_was_linearized_are_solved_for():
    problem = problem_of(mfdeq.openmdao.component(Cosine()), theta=0.4, h=0.2)
    problem.final_setup()
    problem.model.run_linearize()
    problem.run_model()
    close(problem.get_val("h"), mfdeq.solve(Cosine(), np.array([0.4])).state, 1e-9)


def test_a_failure_is_an_analysis_error_and_leaves_the_outputs():
    model = mfdeq.from_function(
        lambda h, theta: h**2 - theta, 1, 1, "residual", initial_state=np.ones(1)
    )
    problem = problem_of(mfdeq.openmdao.component(model), theta=4.0)
    problem.run_model()
    problem.set_val("theta", -1.0)
    with pytest.raises(om.AnalysisError, match="ConvergenceError") as caught:
        problem.run_model()
    assert isinstance(caught.value.__cause__, mfdeq.ConvergenceError)
    close(problem.get_val("h"), [2.0], 1e-12)
    problem.set_val("theta", 9.0)
    problem.run_model()
    close(problem.get_val("h"), [3.0], 1e-12)


def test_a_fold_is_an_analysis_error_when_it_is_differentiated():
    model = mfdeq.from_function(lambda h, theta: h**2 - theta, 1, 1, "residual")
    problem = problem_of(mfdeq.openmdao.component(model), theta=0.0, h=0.0)
    problem.final_setup()
    problem.model.run_linearize()
    with pytest.raises(om.AnalysisError, match="SingularStateError"):
        problem.compute_totals("h", "theta")


def test_a_mistake_in_the_model_is_not_an_analysis_error():
    model = mfdeq.from_function(lambda h, theta: h[:1] - theta, 2, 1, "residual")
    problem = problem_of(mfdeq.openmdao.component(model))
    with pytest.raises(mfdeq.ModelError, match=r"expected an array of shape \(2,\)"):
        problem.run_model()


def test_complex_steps_are_refused():
    problem = om.Problem()
    problem.model.add_subsystem("c", mfdeq.openmdao.component(Cosine()), promotes=["*"])
    problem.setup(force_alloc_complex=True)
    problem.run_model()
    with pytest.raises(mfdeq.ArgumentError, match='use method="fd"'):
        problem.check_partials(out_stream=None, method="cs")


def test_wrong_arguments_are_refused_in_words():
    with pytest.raises(mfdeq.ArgumentError, match=r"outputs of .* 3 entries in all, got {'x': 2}"):
        mfdeq.openmdao.component(three_unknowns(), outputs={"x": 2})
    with pytest.raises(mfdeq.ArgumentError, match="expected a mapping of names"):
        mfdeq.openmdao.component(three_unknowns(), ["a", "b"])
    with pytest.raises(mfdeq.ArgumentError, match=r"expected an mfdeq.Fixed"):
        mfdeq.openmdao.component(residual)
    with pytest.raises(mfdeq.ArgumentError, match="tolerance"):
        mfdeq.openmdao.component(three_unknowns(), tolerance=1e-3)
    total = mfdeq.LinearConstraint(np.ones((1, 3)), np.ones(1))
    with pytest.raises(mfdeq.ArgumentError, match="without constraints"):
        mfdeq.openmdao.component(mfdeq.constrain(three_unknowns(), total))


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openmdao.api", None)
    with pytest.raises(mfdeq.ArgumentError, match=r"install mfdeq\[openmdao\]"):
        mfdeq.openmdao.component(three_unknowns())

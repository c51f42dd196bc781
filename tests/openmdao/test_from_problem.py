"""A problem of OpenMDAO as a model: derivatives beside OpenMDAO's own and those by hand."""

from __future__ import annotations

import numpy as np
import pytest
from support.cases import close, error

import mfdeq
import mfdeq.openmdao.problem_model

om = pytest.importorskip("openmdao.api", reason="OpenMDAO is not installed")
sellar = pytest.importorskip(
    "openmdao.test_suite.components.sellar", reason="OpenMDAO is not installed"
)


class Cubic(om.ImplicitComponent):
    """The roots of x³ + a x = y, with scaled outputs and residuals."""

    def setup(self):
        self.add_input("a", 1.0)
        self.add_input("y", np.ones(2))
        self.add_output("x", np.ones(2), ref=50.0, res_ref=3.0)
        self.declare_partials("*", "*")

    def apply_nonlinear(self, inputs, outputs, residuals):
        residuals["x"] = outputs["x"] ** 3 + inputs["a"] * outputs["x"] - inputs["y"]

    def linearize(self, inputs, outputs, partials):
        partials["x", "x"] = np.diag(3 * outputs["x"] ** 2 + inputs["a"])
        partials["x", "a"] = outputs["x"]
        partials["x", "y"] = -np.eye(2)


class Feedback(om.ExplicitComponent):
    """y = c + b x², the entries of x exchanged; c is a length that callers give in km."""

    def setup(self):
        self.add_input("x", np.ones(2))
        self.add_input("b", 0.5)
        self.add_input("c", np.ones(2), units="m")
        self.add_output("y", np.ones(2))
        self.declare_partials("y", "x", method=self.options["method"])
        self.declare_partials("y", ["b", "c"])

    def initialize(self):
        self.options.declare("method", "exact")

    def compute(self, inputs, outputs):
        outputs["y"] = inputs["c"] + inputs["b"] * inputs["x"][::-1] ** 2

    def compute_partials(self, inputs, partials):
        if self.options["method"] == "exact":
            partials["y", "x"] = 2 * inputs["b"] * np.array([[0.0, 1.0], [1.0, 0.0]])
            partials["y", "x"] *= inputs["x"][::-1, None]
        partials["y", "b"] = inputs["x"][::-1] ** 2
        partials["y", "c"] = np.eye(2)


def coupled_problem(method="exact"):
    problem = om.Problem()
    problem.model.add_subsystem("cubic", Cubic(), promotes=["*"])
    problem.model.add_subsystem("feedback", Feedback(method=method), promotes=["*"])
    problem.model.set_input_defaults("c", np.array([1e-3, 2e-3]), units="km")
    problem.setup()
    problem.set_solver_print(level=-1)
    problem.set_val("b", 0.2)
    return problem


def by_hand(h, theta):
    """The same equations of h = (x, y) and theta = (a, c), with b = 0.2 and c in km."""
    x, y = h[:2], h[2:]
    return np.concatenate(
        [x**3 + theta[0] * x - y, y - 1e3 * theta[1:] - 0.2 * np.stack([x[1], x[0]]) ** 2]
    )


def in_order(model):
    """The state of the model in the order (x, y)."""
    return np.concatenate([model.indices("x"), model.indices("y")])


PARAMS = ["a", "c"]
POINT = np.array([1.3, 0.7e-3, 0.4e-3])


def solved(problem, **options):
    model = mfdeq.openmdao.from_problem(problem, PARAMS, **options)
    return model, mfdeq.solve(model, POINT)


@pytest.fixture(scope="module")
def expected():
    model = mfdeq.from_function(by_hand, 4, 3, "residual", initial_state=np.ones(4))
    return mfdeq.solve(model, POINT)


@pytest.mark.parametrize("columns", [2000, 1])
def test_state_and_derivatives_are_those_of_the_equations_by_hand(columns, expected, monkeypatch):
    """With matrices, and with operators that linearize the problem where they were made."""
    monkeypatch.setattr(mfdeq.openmdao.problem_model, "MAX_COLUMNS", columns)
    model, eq = solved(coupled_problem())
    order = in_order(model)
    assert model.indices("x").shape == (2,)
    close(eq.state[order], expected.state, 1e-10)
    model.residual(eq.state + 1.0, POINT + 1.0)  # the problem moves
    Z = eq.sensitivity @ np.eye(3)
    close(Z[order], expected.sensitivity.toarray(), 1e-9)
    model.residual(eq.state + 1.0, POINT + 1.0)
    y = np.array([0.3, -1.0, 0.5, 0.2])
    back = np.empty(4)
    back[order] = y
    close(eq.sensitivity.H @ back, expected.sensitivity.H @ y, 1e-9)
    assert eq.report.derivatives["d_state"].startswith("the partial derivatives of OpenMDAO")


@pytest.mark.filterwarnings("ignore:The top level group has a nonlinear solver")
def test_sensitivities_are_the_totals_of_openmdao():
    problem = coupled_problem()
    model, eq = solved(problem)
    problem.model.nonlinear_solver = om.NewtonSolver(solve_subsystems=False, maxiter=30)
    problem.model.linear_solver = om.DirectSolver()
    problem.setup()
    problem.set_solver_print(level=-1)
    for name, value in (("b", 0.2), ("a", POINT[0]), ("c", POINT[1:])):
        problem.set_val(name, value)
    problem.run_model()
    close(problem.get_val("x"), eq.state[model.indices("x")], 1e-9)
    totals = problem.compute_totals("x", PARAMS)
    found = np.hstack([totals["x", name] for name in PARAMS])
    close(eq.sensitivity.toarray()[model.indices("x")], found, 1e-8)


def test_second_derivatives_are_right_to_the_accuracy_that_they_claim(expected):
    model, eq = solved(coupled_problem())
    order, scale = in_order(model), np.array([1.0, 1e-3, 1e-3])
    u, v = scale * [0.4, -1.0, 0.3], scale * [1.0, 0.5, 0.2]
    found, exact = eq.second_order(u, v)[order], expected.second_order(u, v)
    claimed = eq.linearization.accuracy[1]
    assert 0.0 < claimed < 1e-4
    assert error(found, exact) < 10 * claimed
    loss = mfdeq.LeastSquares(model.indices("y"), np.zeros(2))
    loss_by_hand = mfdeq.LeastSquares(np.array([2, 3]), np.zeros(2))
    close(eq.hessian(loss) @ v, expected.hessian(loss_by_hand) @ v, 1e-6)
    assert "differences of first derivatives" in eq.report.derivatives["curvature"]


def test_verification_finds_no_fault_in_the_model():
    """Differences hide some second derivatives from it; the first ones are exact."""
    model = mfdeq.openmdao.from_problem(coupled_problem(), PARAMS)
    loss = mfdeq.LeastSquares(model.indices("x"), np.zeros(2))
    checks = mfdeq.verify(model, POINT, loss).checks
    assert not [check for check in checks if check.verdict == "FAIL"]
    first = [check for check in checks if not check.name.startswith(("curvature", "second", "h''"))]
    assert len(first) > 10
    assert all(check.verdict == "PASS" for check in first)


def test_finite_differences_of_openmdao_claim_fewer_digits(expected):
    model, eq = solved(coupled_problem(method="fd"))
    assert eq.linearization.accuracy[0] == 1e-5
    off = error(eq.sensitivity.toarray()[in_order(model)], expected.sensitivity.toarray())
    assert 1e-12 < off < 1e-5
    _, eq = solved(coupled_problem(method="fd"), partials_rtol=1e-3)
    assert eq.linearization.accuracy[0] == 1e-3
    _, eq = solved(coupled_problem())
    assert eq.linearization.accuracy[0] == 0.0


@pytest.mark.parametrize("columns", [2000, 1])
def test_derivatives_are_those_of_their_point_wherever_the_problem_has_been(columns, monkeypatch):
    monkeypatch.setattr(mfdeq.openmdao.problem_model, "MAX_COLUMNS", columns)
    problem = coupled_problem()
    model = mfdeq.openmdao.from_problem(problem, PARAMS)
    other = mfdeq.openmdao.from_problem(problem, ["b"])
    h, direction = np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4)
    before = model.linearize(h, POINT).d_state @ direction
    later = model.linearize(h, POINT)
    other.linearize(2.0 * h, np.array([0.7])).d_state @ direction
    other.residual(h, np.array([0.2]))
    close(later.d_state @ direction, before, 1e-14)
    close(model.linearize(h, POINT).d_state @ direction, before, 1e-14)
    problem.set_val("x", 5.0)
    problem.model.run_linearize()
    close(later.d_state @ direction, before, 1e-14)
    close(model.linearize(h, POINT).d_state @ direction, before, 1e-14)


def test_errors_name_the_variables_of_the_problem():
    problem = om.Problem()
    problem.model.add_subsystem("a", om.ExecComp("y = p - z"), promotes=["*"])
    problem.model.add_subsystem("b", om.ExecComp("z = p - y"), promotes=["*"])
    problem.setup()
    model = mfdeq.openmdao.from_problem(problem, ["p"])
    with pytest.raises(mfdeq.SingularStateError, match=r"y\[0\]"):
        mfdeq.solve(model, np.ones(1))


def test_sellars_disciplines_have_their_published_state():
    """R. Sellar, S. Batill and J. Renaud (1996); the state is that of OpenMDAO's documentation."""
    problem = om.Problem()
    for name, discipline in (
        ("d1", sellar.SellarDis1withDerivatives()),
        ("d2", sellar.SellarDis2withDerivatives()),
    ):
        problem.model.add_subsystem(name, discipline, promotes=["*"])
    problem.setup()
    model = mfdeq.openmdao.from_problem(problem, ["x", "z"])
    eq = mfdeq.solve(model, np.array([1.0, 5.0, 2.0]))
    state = [eq.state[model.indices(name)].item() for name in ("y1", "y2")]
    close(state, [25.58830237, 12.05848815], 1e-9)


def test_a_component_of_a_model_is_that_model_again():
    model = mfdeq.from_function(by_hand, 4, 3, "residual", initial_state=np.ones(4))
    problem = om.Problem()
    problem.model.add_subsystem("c", mfdeq.openmdao.component(model), promotes=["*"])
    problem.setup()
    again = mfdeq.openmdao.from_problem(problem, ["theta"])
    eq, eq_again = mfdeq.solve(model, POINT), mfdeq.solve(again, POINT)
    close(eq_again.state, eq.state, 1e-10)
    close(eq_again.sensitivity.toarray(), eq.sensitivity.toarray(), 1e-9)


def test_large_chains_have_sparse_matrices():
    """y_i = p + 0.5 sin(y_(i-1)), each a component of its own."""
    problem, n = om.Problem(), 60
    for i in range(n):
        part = om.ExecComp("y = p + 0.5 * sin(x)")
        problem.model.add_subsystem(f"c{i}", part, promotes_inputs=["p"])
        if i:
            problem.model.connect(f"c{i - 1}.y", f"c{i}.x")
    problem.setup()
    problem.set_val("c0.x", 0.3)
    model = mfdeq.openmdao.from_problem(problem, ["p"])
    eq = mfdeq.solve(model, np.array([0.4]))
    assert eq.linearization.d_state.nnz == 2 * n - 1
    y, slope = 0.3, 0.0
    for _ in range(n):
        y, slope = 0.4 + 0.5 * np.sin(y), 1.0 + 0.5 * np.cos(y) * slope
    last = model.indices(f"c{n - 1}.y").item()
    close(eq.state[last], y, 1e-12)
    close(eq.sensitivity.toarray()[last, 0], slope, 1e-10)


def test_a_problem_without_a_value_shortens_the_step():
    class Root(om.ExplicitComponent):
        def setup(self):
            self.add_input("p")
            self.add_input("y", 1.0)
            self.add_output("z", 1.0)
            self.declare_partials("*", "*")

        def compute(self, inputs, outputs):
            if inputs["y"] <= 0:
                raise om.AnalysisError("y is not positive")
            outputs["z"] = inputs["p"] - np.log(inputs["y"])

        def compute_partials(self, inputs, partials):
            partials["z", "p"], partials["z", "y"] = 1.0, -1.0 / inputs["y"]

    problem = om.Problem()
    problem.model.add_subsystem("root", Root(), promotes=["*"])
    problem.model.add_subsystem("same", om.ExecComp("y = 3 * z"), promotes=["*"])
    problem.setup()
    problem.set_val("y", 40.0)
    problem.set_val("z", 40.0 / 3)
    model = mfdeq.openmdao.from_problem(problem, ["p"])
    eq = mfdeq.solve(model, np.array([-3.0]))
    z = eq.state[model.indices("z")].item()
    assert z == pytest.approx(-3.0 - np.log(3.0 * z))
    assert eq.report.failures > 0


def test_a_group_that_is_differentiated_as_a_whole_is_refused():
    problem = om.Problem()
    group = problem.model.add_subsystem("group", om.Group(), promotes=["*"])
    group.add_subsystem("a", om.ExecComp("y = p - 0.2 * z"), promotes=["*"])
    group.add_subsystem("b", om.ExecComp("z = y**2"), promotes=["*"])
    group.approx_totals()
    problem.setup()
    with pytest.raises(mfdeq.ArgumentError, match=r"the group group as a whole"):
        mfdeq.openmdao.from_problem(problem, ["p"])


class Power(om.ExplicitComponent):
    """y = x to a discrete power."""

    def setup(self):
        self.add_input("x", 1.0)
        self.add_discrete_input("n", 2)
        self.add_output("y", 1.0)
        self.declare_partials("*", "*")

    def compute(self, inputs, outputs, discrete_inputs, discrete_outputs):
        outputs["y"] = inputs["x"] ** discrete_inputs["n"]

    def compute_partials(self, inputs, partials, discrete_inputs):
        n = discrete_inputs["n"]
        partials["y", "x"] = n * inputs["x"] ** (n - 1)


def test_discrete_variables_keep_their_values_and_are_no_parameters():
    problem = om.Problem()
    problem.model.add_subsystem("power", Power(), promotes=["*"])
    problem.setup()
    problem.set_val("n", 3)
    eq = mfdeq.solve(mfdeq.openmdao.from_problem(problem, ["x"]), np.array([2.0]))
    close(eq.state, [8.0], 1e-12)
    close(eq.sensitivity.toarray(), [[12.0]], 1e-12)
    with pytest.raises(mfdeq.ArgumentError, match="got n, which is discrete"):
        mfdeq.openmdao.from_problem(problem, ["n"])


def test_wrong_arguments_are_refused_in_words():
    problem = coupled_problem()
    with pytest.raises(mfdeq.ArgumentError, match="expected an openmdao"):
        mfdeq.openmdao.from_problem(Cubic(), ["a"])
    with pytest.raises(mfdeq.ArgumentError, match=r"after problem\.setup"):
        mfdeq.openmdao.from_problem(om.Problem(), ["a"])
    with pytest.raises(mfdeq.ArgumentError, match="missing"):
        mfdeq.openmdao.from_problem(problem, ["missing"])
    with pytest.raises(mfdeq.ArgumentError, match=r"got y, which feedback\.y computes"):
        mfdeq.openmdao.from_problem(problem, ["y"])
    with pytest.raises(mfdeq.ArgumentError, match="different independent variables"):
        mfdeq.openmdao.from_problem(problem, ["a", "a"])
    for params in ("a", [], [0], None):
        with pytest.raises(mfdeq.ArgumentError, match="expected a sequence of names"):
            mfdeq.openmdao.from_problem(problem, params)
    with pytest.raises(mfdeq.ArgumentError, match="partials_rtol"):
        mfdeq.openmdao.from_problem(problem, ["a"], partials_rtol=2.0)
    model = mfdeq.openmdao.from_problem(problem, ["a"])
    with pytest.raises(mfdeq.ArgumentError, match=r"compute \(x, y\), got 'a'"):
        model.indices("a")

"""What the package is from outside: cheap to import, complete, documented, at home in scipy."""

import ast
import configparser
import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.sparse.linalg import (
    LinearOperator,
    aslinearoperator,
    cg,
    eigsh,
    gmres,
    lobpcg,
    lsmr,
    minres,
    svds,
)
from support.case_toy import THETA, Diagonal, N, Toy, V, solve_toy, toy_loss

import mfdeq

PUBLIC = """
    AccuracyWarning AMG Approximate ArgumentError Auto BatchedEquilibrium bdf2 Branch
    CheckpointError CheckpointWarning condition_number constrain ConstrainedEquilibrium Constraint
    ConvergenceError Curvature DerivativeError Direct DomainError Eigenpairs eigsh Equilibrium
    equilibrium_at Estimate FieldSplit FixedPointModel follow frobenius_norm from_function from_jax
    from_torch hessian_of ILU implicit_euler Jacobi Krylov last_error LeastSquares LinearConstraint
    Linearization log_determinant Loss loss_from_function loss_from_jax loss_from_torch LowRank
    MfdeqError minimize MinimizeReport Minimum mixed ModelError NearSingularWarning Neumann
    numerical_rank Nystrom OutOfMemoryError Precision QuadraticPrior randomized_eigsh
    ReducedFunctional ReducedHessian ResidualModel ShiftedInverse SingularStateError
    SmallestSingular solve SolveReport spectral_density SpectralDensity Start step_from_function
    step_from_jax step_from_model StepCurvature StepLinearization StepModel Study StudyError
    StudyWarning SumEquilibrium SumFunctional SumHessian threads to_jax to_torch torch_layer trace
    trajectory TrajectoryEquilibrium trapezoidal Verification verify WorkerWarning
""".split()  # noqa: SIM905

FOREIGN = [
    "pyamg",
    "matplotlib",
    "jax",
    "torch",
    "cupy",
    "cupyx",
    "tqdm.auto",
    "numba",
    "threadpoolctl",
]


def modules_after(*statements):
    """The names of the modules that a fresh interpreter has loaded after some statements."""
    code = "\n".join([*statements, "import json, sys", "print(json.dumps(list(sys.modules)))"])
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(out.stdout.splitlines()[-1]))


def test_importing_mfdeq_loads_no_dependency():
    bare = modules_after("import mfdeq")
    assert not {"numpy", "scipy", *FOREIGN} & bare
    everything = modules_after("import mfdeq", "for name in mfdeq.__all__: getattr(mfdeq, name)")
    assert not set(FOREIGN) & everything
    scipy_modules = modules_after("import scipy.sparse.csgraph, scipy.sparse.linalg")
    beside = everything - scipy_modules
    packages = {name.partition(".")[0] for name in beside if not name.startswith("_")}
    assert packages - sys.stdlib_module_names <= {"mfdeq", "array_api_compat"}


def test_the_folder_that_contains_a_clone_does_not_hide_the_package(tmp_path):
    (tmp_path / mfdeq.__name__).symlink_to(ROOT)
    (tmp_path / "script.py").write_text("import mfdeq\nprint(mfdeq.__version__)\n")
    command = [sys.executable, "script.py"]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert out.stdout.strip() == mfdeq.__version__, out.stderr


def test_a_solve_loads_only_what_it_needs():
    script = inspect.getsource(mfdeq.FixedPointModel).partition("Examples")[2].partition('"""')[0]
    lines = [line.strip()[4:] for line in script.splitlines() if line.strip()[:3] in (">>>", "...")]
    assert len(lines) > 10
    loaded = modules_after(*lines)
    assert "scipy.sparse.linalg" in loaded
    assert not set(FOREIGN) & loaded


def test_public_names_are_complete_and_lazy():
    assert sorted(PUBLIC) == sorted(mfdeq.__all__)
    assert set(mfdeq.__all__) <= set(dir(mfdeq))
    for name in mfdeq.__all__:
        assert getattr(mfdeq, name).__name__ == name
        assert getattr(mfdeq, name).__module__.startswith("mfdeq.")
    assert "mfdeq.spectrum" not in modules_after("import mfdeq", "mfdeq.MfdeqError")
    namespace = {}
    exec("from mfdeq import *", namespace)
    assert set(mfdeq.__all__) <= set(namespace)
    with pytest.raises(AttributeError, match="module 'mfdeq' has no attribute 'slove'"):
        mfdeq.slove  # noqa: B018
    assert mfdeq.__version__[0].isdigit()
    assert (Path(mfdeq.__file__).parent / "py.typed").exists()


SIGNATURES = {
    "solve": "(model, theta, h0=None, *, method='auto', solver='auto', rtol=None, "
    "max_iterations=None, lower=None, upper=None, progress=False, error_estimates=True, "
    "on_failure='raise')",
    "equilibrium_at": "(model, theta, state, *, solver='auto')",
    "Linearization": "(d_state, d_params, curvature=None, second=None)",
    "Loss": "(value, d_state=None, d_params=None, curvature=None)",
    "LeastSquares": "(observe, data, weights=1.0)",
    "verify": "(model, theta, loss=None, h0=None, seed=0, **solve_options)",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_documented(name):
    signature = inspect.signature(getattr(mfdeq, name))
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    assert str(inspect.Signature(plain)) == SIGNATURES[name]


def documented(name, item):
    """The item, and of a class its public members, by their full names."""
    yield name, item
    if inspect.isclass(item):
        for member, value in vars(item).items():
            if not member.startswith("_") and (callable(value) or hasattr(value, "__get__")):
                yield f"{name}.{member}", value


@pytest.mark.parametrize("name", mfdeq.__all__)
def test_public_objects_have_docstrings(name):
    for full, item in documented(name, getattr(mfdeq, name)):
        assert len(inspect.getdoc(item) or "") > 10, f"{full} has no docstring"


@pytest.mark.parametrize("name", mfdeq.__all__)
def test_public_docstrings_have_an_example(name):
    assert ">>>" in (getattr(mfdeq, name).__doc__ or ""), f"mfdeq.{name} has no example"


TESTS = Path(__file__).parent
ROOT = TESTS.parent
API_NAMES = re.findall(r"^ {3}([\w.]+)$", (ROOT / "docs/api.rst").read_text("utf-8"), re.MULTILINE)


def docstrings_of(dotted):
    """The docstrings of the classes and functions of a name below a subpackage, without imports."""
    *packages, name = dotted.split(".")
    place = ROOT.joinpath("mfdeq", *packages)
    for path in place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
                yield ast.get_docstring(node) or ""


@pytest.mark.parametrize("name", [name for name in API_NAMES if "." in name])
def test_names_of_submodules_on_the_api_page_have_an_example(name):
    assert any(">>>" in text for text in docstrings_of(name)), f"mfdeq.{name} has no example"


def test_no_test_module_imports_another():
    modules = {path.stem for path in TESTS.rglob("test_*.py")}
    for path in TESTS.rglob("*.py"):
        source = path.read_text("utf-8")
        if modules.isdisjoint(re.findall(r"\w+", source)):
            continue  # parsing takes long
        for node in ast.walk(ast.parse(source)):
            imported = []
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                imported = [node.module or ""] + [alias.name for alias in node.names]
            found = modules & {part for name in imported for part in name.split(".")}
            assert not found, f"{path.relative_to(ROOT)} imports {found}: use tests/support"


def test_files_named_in_the_architecture_exist():
    page = (ROOT / "docs" / "architecture.rst").read_text("utf-8")
    named = re.findall(r"``([a-z_/]+\.py)``", page)
    assert len(named) > 10
    for path in named:
        assert (ROOT / "mfdeq" / path.removeprefix("mfdeq/")).exists(), path


def test_the_citation_states_the_version():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"version: {mfdeq.__version__}" in citation.splitlines()


def test_the_floor_plan_is_the_import_contract():
    """The picture in the docs, the layers that import-linter checks, and the rooms there are."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contract = config["tool"]["importlinter"]["contracts"][0]
    assert "ignore_imports" not in contract
    layers = [set(layer.split(" | ")) for layer in contract["layers"]]
    cells = [
        [cell.split()[0] for cell in line.strip(" │").split("│")]
        for line in (ROOT / "docs" / "floor_plan.txt").read_text("utf-8").splitlines()
        if line.strip().startswith("│")
    ]
    drawn = [{cell for cell in row if cell in set().union(*layers)} for row in cells]
    assert [row for row in drawn if row] == layers
    package = Path(mfdeq.__file__).parent
    rooms = {path.stem for path in package.glob("*.py")} - {"__init__"}
    rooms |= {path.parent.name for path in package.glob("*/__init__.py")}
    assert set().union(*layers) == rooms


def test_the_errors_are_also_what_python_users_expect():
    for name, base in (
        ("ArgumentError", ValueError),
        ("ModelError", ValueError),
        ("DerivativeError", ValueError),
        ("ConvergenceError", RuntimeError),
        ("SingularStateError", ArithmeticError),
    ):
        assert issubclass(getattr(mfdeq, name), (mfdeq.MfdeqError, base))
        assert issubclass(getattr(mfdeq, name), mfdeq.MfdeqError)
        assert issubclass(getattr(mfdeq, name), base)


# The operators among scipy's.


def operators_of(eq):
    H = eq.hessian(toy_loss())
    found = {
        "A": eq.state_operator,
        "inverse": eq.inverse,
        "B": eq.param_operator,
        "Z": eq.sensitivity,
        "T": eq.tangent,
        "K": H.lagrangian,
        "H": H,
        "gauss_newton": H.gauss_newton,
        "dynamics": H.dynamics,
        "curvature": eq.curvature(np.ones(N, eq.state.dtype)),
        "component": eq.component_hessian(1),
        "slice": eq.second_order_slice(V[:, 0].astype(eq.state.dtype)),
        **H.terms,
        **{b: getattr(H.lagrangian, b) for b in ("params_params", "state_params", "state_state")},
    }
    return found | {f"{name}.H": op.H for name, op in found.items()}


EQUILIBRIA = {
    "float64": solve_toy(),
    "float32": mfdeq.solve(Toy(), THETA.astype(np.float32)),
}
OPERATORS = {
    (name, dtype): op for dtype, eq in EQUILIBRIA.items() for name, op in operators_of(eq).items()
}
SCALARS = [2, 0.5, np.float64(3), np.float32(1.5), np.int64(2), True]


# OpenBLAS reads beyond the end of small arrays in float32, and what lies there may raise a flag.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize(("name", "dtype"), OPERATORS)
def test_operators_compose_with_those_of_scipy(name, dtype):
    op = OPERATORS[name, dtype]
    rows, columns = op.shape
    D = op.toarray()
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(n).astype(dtype) for n in (columns, rows))
    X, Y = (rng.standard_normal((n, 3)).astype(dtype) for n in (columns, rows))
    tolerance = 30 * np.finfo(dtype).eps * (np.linalg.norm(D) + 1)

    def close(found, expected, dtype=dtype):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=0, atol=30 * tolerance)

    assert isinstance(op, LinearOperator)
    assert aslinearoperator(op) is op
    assert op.dtype == D.dtype == dtype
    assert repr(op).startswith(f"<{rows}x{columns} ")

    for found, expected in (
        (op @ x, D @ x),
        (op @ X, D @ X),
        (op * x, D @ x),
        (op(x), D @ x),
        (op.dot(X), D @ X),
        (op.matvec(x), D @ x),
        (op.matvec(x[:, None]), D @ x[:, None]),
        (op.matmat(X), D @ X),
        (op.rmatvec(y), D.T @ y),
        (op.rmatmat(Y), D.T @ Y),
        (op.H @ Y, D.T @ Y),
        (op.T @ y, D.T @ y),
        (op.H.H @ X, D @ X),
        (op.T.T @ X, D @ X),
        (y @ op, y @ D),
        (Y.T @ op, Y.T @ D),
        (op @ X[:, :0], D @ X[:, :0]),
        (-op @ X, -D @ X),
        ((op + op) @ X, 2 * D @ X),
        ((op - 2 * op) @ X, -D @ X),
        ((op.H @ op) @ X, D.T @ (D @ X)),
        ((op @ op.H).H @ Y, D @ (D.T @ Y)),
    ):
        close(found, expected)
    for scalar in SCALARS:
        for scaled in (scalar * op, op * scalar):
            assert scaled.dtype == dtype
            close(scaled @ X, float(scalar) * D @ X)
            close(scaled.H @ Y, float(scalar) * D.T @ Y)

    F = rng.standard_normal((rows, columns)).astype(dtype)
    G = rng.standard_normal((columns, 4)).astype(dtype)
    Q = rng.standard_normal((4, 2)).astype(dtype)
    foreign, after, before = (aslinearoperator(M) for M in (F, G, G.T))
    for found, expected in (
        ((op + foreign) @ X, (D + F) @ X),
        ((foreign + op) @ X, (D + F) @ X),
        ((op - foreign) @ x, (D - F) @ x),
        ((foreign - op) @ x, (F - D) @ x),
        ((op + foreign).H @ Y, (D + F).T @ Y),
        ((op @ after) @ Q, D @ G @ Q),
        ((op @ after).H @ Y, G.T @ (D.T @ Y)),
        ((before @ op.H) @ Y, G.T @ (D.T @ Y)),
        (op.H.dot(foreign) @ X, D.T @ (F @ X)),
    ):
        close(found, expected)
    if rows == columns:
        close((op**2) @ X, D @ (D @ X))
    with pytest.raises(ValueError, match="Scalar operands are not allowed"):
        op @ 2.0
    for imaginary in (1j * op, np.complex128(1j) * op):
        np.testing.assert_allclose(imaginary @ x, 1j * (D @ x), atol=30 * tolerance)


SIZE = 60
WEIGHTS = np.linspace(1.0, 4.0, SIZE)
MISFIT = mfdeq.LeastSquares(np.arange(SIZE), np.ones(SIZE), WEIGHTS)
DIAGONAL = Diagonal(SIZE).solve()
HESSIAN = DIAGONAL.hessian(MISFIT)  # Z = 2 I, so that it is 4 diag(WEIGHTS)


def test_scipy_finds_eigenvalues_of_a_hessian():
    np.testing.assert_allclose(eigsh(HESSIAN, k=3)[0], 4 * WEIGHTS[-3:], rtol=1e-9)
    start = np.random.default_rng(0).standard_normal((SIZE, 3))
    values, _ = lobpcg(HESSIAN, start, tol=1e-8, maxiter=200)
    np.testing.assert_allclose(values, 4 * WEIGHTS[:-4:-1], rtol=1e-9)
    np.testing.assert_allclose(svds(DIAGONAL.sensitivity, k=2)[1], [2, 2], rtol=1e-9)


@pytest.mark.parametrize("method", [gmres, cg, minres])
def test_scipy_solves_with_a_hessian(method):
    b = np.random.default_rng(0).standard_normal(SIZE)
    x, info = method(HESSIAN, b, rtol=1e-10)
    assert info == 0
    np.testing.assert_allclose(x, b / (4 * WEIGHTS), rtol=1e-7, atol=1e-8)
    x, info = method(DIAGONAL.state_operator, b, M=DIAGONAL.inverse, rtol=1e-10)
    assert info == 0
    np.testing.assert_allclose(x, 2 * b, rtol=1e-9)


def test_scipy_solves_least_squares_with_a_sensitivity():
    b = np.random.default_rng(0).standard_normal(SIZE)
    np.testing.assert_allclose(lsmr(DIAGONAL.sensitivity, b, atol=1e-12)[0], b / 2, atol=1e-9)


@pytest.mark.parametrize("method", ["Newton-CG", "trust-ncg", "trust-krylov", "L-BFGS-B"])
def test_scipy_minimizes_a_reduced_functional(method):
    functional = mfdeq.ReducedFunctional(Diagonal(SIZE), MISFIT)
    options = {} if method == "L-BFGS-B" else {"hessp": functional.hessp}
    found = minimize(
        functional.value, np.zeros(SIZE), jac=functional.gradient, method=method, **options
    )
    assert found.success
    np.testing.assert_allclose(found.x, 0.5, atol=1e-4)
    assert functional.solves <= found.nfev + 1


ROOT = Path(__file__).parents[1]


def test_one_version_is_stated_everywhere():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    assert config["metadata"]["version"] == mfdeq.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE)[1] == mfdeq.__version__
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {mfdeq.__version__}\n" in citation
    upgrading = (ROOT / "docs" / "upgrading.rst").read_text("utf-8")
    assert f"\nTo {mfdeq.__version__}\n---" in upgrading


def test_the_conda_environment_has_the_bounds_of_the_package():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    required = config["options"]["install_requires"].split()
    for extra in ("plot", "studies", "fast", "test"):
        required += config["options.extras_require"][extra].split()
    required.append("python" + config["options"]["python_requires"])
    environment = (ROOT / "docs" / "environment.yml").read_text("utf-8")
    assert set(re.findall(r"^  - (\S+>=\S+)$", environment, re.MULTILINE)) == set(required)


def test_examples_pass_where_a_module_is_collected_alone():
    """This one's name is that of a function of its package, as pytest has to leave it."""
    pytest.importorskip("openmdao.api", reason="the openmdao extra is not installed")
    plugin = ["-p", "tests.support.docstring_examples", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", *plugin, "--doctest-modules"]
    path = "mfdeq/openmdao/from_problem.py"
    root = Path(__file__).parents[1]
    found = subprocess.run([*command, path], cwd=root, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
    assert "2 passed" in found.stdout

"""What a plain function refers to cannot change between its derivatives without a word."""

import array
import collections
import functools
import sys
import types

import numpy as np
import pytest
from scipy import interpolate, sparse
from support.cases import close

import mfdeq
from mfdeq.derivatives import references
from mfdeq.derivatives.fingerprints import fingerprint
from mfdeq.derivatives.references import References

N = 3
THETA = np.array([0.3, -0.2, 0.5, 0.1])
LOSS = mfdeq.LeastSquares(np.arange(N), np.ones(N))


class Config:
    W = 0.3

    class Inner:
        W = 0.3


class Base:
    factor = 0.3

    def scale(self, h):
        return self.factor * h


class Derived(Base):
    def scale(self, h):
        return super().scale(h)


class Slots:
    __slots__ = ("W",)

    def __init__(self, W):
        self.W = W


class Scaling:
    """A linear map by an operator of the language."""

    def __init__(self, W):
        self.W = W

    def __matmul__(self, h):
        return self.W * h


class Settings:
    _W = 0.3

    @property
    def W(self):
        return self._W

    @staticmethod
    def scale(h):
        return Config.W * h


def used(config, h):
    """Use an attribute that the caller does not mention."""
    return config.W * h


def doubled(function):
    @functools.wraps(function)
    def wrapper(h):
        return 2.0 * function(h)

    return wrapper


def of_class():
    return lambda h: Config.W * h, lambda: setattr(Config, "W", 0.2)


def of_class_in_a_class():
    return lambda h: Config.Inner.W * h, lambda: setattr(Config.Inner, "W", 0.2)


def of_base_class():
    derived = Derived()
    return derived.scale, lambda: setattr(Base, "factor", 0.2)


def method_of_base_class():
    derived = Derived()
    return lambda h: derived.scale(h), lambda: setattr(Base, "scale", lambda self, h: 0.2 * h)


def slot():
    slots = Slots(0.3)
    return lambda h: slots.W * h, lambda: setattr(slots, "W", 0.2)


def operator():
    scaling = Scaling(0.3)
    return lambda h: scaling @ h, lambda: setattr(scaling, "W", 0.2)


def namespace():
    space = types.SimpleNamespace(W=0.3)
    return lambda h: space.W * h, lambda: setattr(space, "W", 0.2)


def property_of_class():
    settings = Settings()
    return lambda h: settings.W * h, lambda: setattr(settings, "_W", 0.2)


def static_method():
    settings = Settings()
    return lambda h: settings.scale(h), lambda: setattr(Config, "W", 0.2)


def argument_of_a_function():
    slots = Slots(0.3)
    return lambda h: used(slots, h), lambda: setattr(slots, "W", 0.2)


def decorated():
    slots = Slots(0.3)
    return doubled(lambda h: 0.5 * slots.W * h), lambda: setattr(slots, "W", 0.2)


def imported():
    module = sys.modules["settings_of_a_test"] = types.ModuleType("settings_of_a_test")
    module.W = 0.3

    def scale(h):
        import settings_of_a_test

        return settings_of_a_test.W * h

    return scale, lambda: setattr(module, "W", 0.2)


def array_in_place():
    W = np.full(N, 0.3)
    return lambda h: W * h, lambda: np.multiply(W, 0.5, out=W)


def bound_array():
    W = np.full(N, 0.3)
    return functools.partial(np.multiply, W), lambda: np.multiply(W, 0.5, out=W)


def default_array():
    W = np.full(N, 0.3)
    return lambda h, W=W: W * h, lambda: np.multiply(W, 0.5, out=W)


def default_array_of_a_keyword():
    W = np.full(N, 0.3)
    return lambda h, *, W=W: W * h, lambda: np.multiply(W, 0.5, out=W)


def array_of_a_list():
    W = [np.full(N, 0.3)]
    return lambda h: W[0] * h, lambda: W[0].__setitem__(1, 0.2)


def sparse_matrix_in_place():
    W = sparse.csr_matrix(0.3 * np.eye(N))
    return lambda h: W @ h, lambda: W.data.__imul__(0.5)


def spline_in_place():
    spline = interpolate.CubicSpline([-2.0, -1.0, 0.0, 1.0, 2.0], [0.0, 0.1, 0.0, 0.1, 0.3])
    return lambda h: spline(h), lambda: spline.c.__imul__(0.5)


def long_list():
    W = [0.3] * 1000
    return lambda h: np.array(W[:N]) * h, lambda: W.__setitem__(0, 0.2)


def appended_list():
    W = [0.1]
    return lambda h: sum(W) * h, lambda: W.append(0.2)


def buffer():
    W = array.array("d", [0.3] * N)
    return lambda h: np.asarray(W) * h, lambda: W.__setitem__(0, 0.2)


def queue():
    W = collections.deque([0.3])
    return lambda h: W[0] * h, lambda: W.appendleft(0.2)


CHANGES = [
    of_class,
    of_class_in_a_class,
    of_base_class,
    method_of_base_class,
    slot,
    operator,
    namespace,
    property_of_class,
    static_method,
    argument_of_a_function,
    decorated,
    imported,
    array_in_place,
    bound_array,
    default_array,
    default_array_of_a_keyword,
    array_of_a_list,
    sparse_matrix_in_place,
    spline_in_place,
    long_list,
    appended_list,
    buffer,
    queue,
]


@pytest.fixture(params=CHANGES, ids=lambda change: change.__name__)
def scale_and_change(request, monkeypatch):
    for owner in (Config, Config.Inner):
        monkeypatch.setattr(owner, "W", 0.3)
    monkeypatch.setattr(Base, "factor", 0.3)
    monkeypatch.setattr(Base, "scale", Base.scale)
    yield request.param()
    sys.modules.pop("settings_of_a_test", None)


def test_changes_are_seen(scale_and_change):
    scale, change = scale_and_change
    snapshot = References(scale).snapshot()
    scale(np.zeros(N))
    assert not snapshot.has_changed()
    change()
    assert snapshot.has_changed()


def model_of(scale, state=None):
    shift = 0.0 if state is None else state

    def f(h, theta):
        return shift + np.sin(scale(h - shift)) + 0.1 * theta[1:] * (1.0 + theta[0])

    return mfdeq.from_function(f, N, THETA.shape[0], "map")


@pytest.mark.parametrize("theta", [THETA, 0.0 * THETA], ids=["", "at zero"])
def test_a_change_between_a_gradient_and_a_hessian_is_an_error(scale_and_change, theta):
    """At a state of zeros the value of f does not depend on what changes."""
    scale, change = scale_and_change
    model = model_of(scale)
    eq = mfdeq.solve(model, theta)
    eq.gradient(LOSS)
    change()
    with pytest.raises(mfdeq.ModelError, match="was changed before all of its derivatives"):
        eq.hessian(LOSS) @ np.ones(THETA.shape[0])
    again = mfdeq.solve(model, theta)
    gradient = again.gradient(LOSS)
    other = mfdeq.solve(model_of(scale), theta)
    close(gradient, other.gradient(LOSS), 1e-8)
    v = np.ones(THETA.shape[0])
    close(again.hessian(LOSS) @ v, other.hessian(LOSS) @ v, 1e-6)


@pytest.mark.parametrize("change_at", ["solve", "gradient", "product"])
@pytest.mark.parametrize("theta", [THETA, 0.0 * THETA], ids=["", "at zero"])
def test_a_change_in_place_is_an_error_wherever_f_is_differentiated_again(change_at, theta):
    n = 70  # colours for which second derivatives are not tabulated
    W = np.random.default_rng(0).standard_normal((n, n)) / n

    def f(h, theta):
        return np.sin(W @ h) + 0.1 * (theta[0] + theta[1:].sum()) + h**2 / 9.0

    model = mfdeq.from_function(f, n, THETA.shape[0], "map")
    loss = mfdeq.LeastSquares(np.arange(n), np.ones(n))
    eq = mfdeq.solve(model, theta)
    H, v = eq.hessian(loss) if change_at != "solve" else None, np.ones(THETA.shape[0])
    if change_at == "product":
        H @ v
        eq.second_order(v, v)
    W *= 1.5
    if change_at == "solve":
        with pytest.raises(mfdeq.ModelError, match="was changed"):
            eq.gradient(loss)
        return
    with pytest.raises(mfdeq.ModelError, match="was changed"):
        H @ v
    with pytest.raises(mfdeq.ModelError, match="was changed"):
        eq.second_order(v, v)


def test_a_state_inside_of_an_object_of_c_is_noticed_at_the_first_product():
    """No name refers to it."""
    factors = {"now": 0.3}
    lookup = (factors["now"] for _ in range(10_000))  # a generator has no attributes
    model = model_of(lambda h: next(lookup) * h)
    eq = mfdeq.solve(model, THETA)
    eq.gradient(LOSS)
    factors["now"] = 0.2
    with pytest.raises(mfdeq.ModelError, match="was changed"):
        eq.hessian(LOSS) @ np.ones(THETA.shape[0])


def test_a_mixed_model_notices_changes_of_the_first_function():
    W = np.full(N, 0.3)

    class Map(mfdeq.FixedPointModel):
        state_size, param_size = N, THETA.shape[0]

        def map(self, h, theta):
            return np.sin(W * h) + 0.1 * theta[1:] * (1.0 + theta[0])

        def linearize(self, h, theta):
            return mfdeq.Linearization(None, None)

    eq = mfdeq.solve(mfdeq.mixed(Map()), THETA)
    eq.gradient(LOSS)
    H = eq.hessian(LOSS)
    H @ np.ones(THETA.shape[0])
    W[0] = 0.2
    with pytest.raises(mfdeq.ModelError, match="was changed"):
        H @ np.ones(THETA.shape[0])


def test_work_arrays_that_a_function_overwrites_are_not_a_change():
    work = np.zeros(N)

    def scale(h):
        work[:] = h.real
        return 0.3 * h

    eq = mfdeq.solve(model_of(scale), THETA)
    H, v = eq.hessian(LOSS), np.ones(THETA.shape[0])
    first = H @ v
    work[:] = 7.0
    close(H @ v, first, 1e-12)


def test_packages_are_not_searched():
    def f(h):
        return np.linalg.norm(h) + sparse.linalg.norm(h) + interpolate.BSpline(h) + pytest.raises(h)

    assert [r for r in References(f).current() if "pytest" not in r.name] == []
    assert len(References(f).current()) <= 1


def test_linearizations_search_once(monkeypatch):
    searches = []
    find = references.find_references
    monkeypatch.setattr(references, "find_references", lambda *x: searches.append(1) or find(*x))
    model = model_of(lambda h: 0.3 * h)
    for _ in range(3):
        assert mfdeq.solve(model, THETA, method="newton").report.iterations > 1
    assert len(searches) == 1


def test_references_are_searched_once_for_several_snapshots():
    found = References(lambda h: N * h)
    assert found.snapshot().references is found.snapshot().references


@pytest.mark.parametrize("size", [0, 1, 7, 1000, 100_003])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int8", "complex128", "bool"])
@pytest.mark.parametrize("layout", ["C", "F", "strided"])
def test_fingerprints_change_with_any_entry(size, dtype, layout):
    x = (10.0 * np.random.default_rng(0).standard_normal((size, 3))).astype(dtype)
    x = np.asfortranarray(x) if layout == "F" else x[::2, :2] if layout == "strided" else x
    before = fingerprint(x)
    assert fingerprint(x.copy(order="K")) == before
    for at in (0, -1, x.shape[0] // 2):
        if size > 0:
            x[at, 1] = not x[at, 1] if dtype == "bool" else x[at, 1] + 1
            assert fingerprint(x) != before
            before = fingerprint(x)
    if x.shape[0] > 512 and dtype == "float64":
        x[[0, 512]] = x[[512, 0]]
        assert fingerprint(x) != before


@pytest.mark.parametrize(
    "names", [np.array(["CH4", "O2"]), np.array(["CH4", None], dtype=object), np.str_("CH4")]
)
def test_a_function_may_refer_to_names_in_arrays(names):
    def f(h, theta):
        return h * np.size(names) / 4 + theta

    model = mfdeq.from_function(f, 1, 1, "map")
    eq = mfdeq.solve(model, np.ones(1))
    if names.shape:
        names[0] = "N2"
    assert np.allclose(eq.sensitivity @ np.ones(1), 1.0 / (1.0 - np.size(names) / 4))


@pytest.mark.parametrize("dtype", ["U3", object])
def test_fingerprints_of_names_change_with_any_entry(dtype):
    x = np.array(["CH4", "O2"], dtype=dtype)
    before = fingerprint(x)
    assert fingerprint(x) == before
    x[1] = "N2"
    assert fingerprint(x) != before


def test_fingerprints_of_mapped_files_read_samples(tmp_path):
    x = np.memmap(tmp_path / "x", dtype="float64", mode="w+", shape=(1000,))
    before = fingerprint(x)
    x[3] = 1.0
    assert fingerprint(x) != before

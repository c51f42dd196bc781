"""Pytrees of PyTorch tensors as vectors, and the tensors that a function uses."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..arrays.backend import host
from ..arrays.library import array_on_device
from ..arrays.optional_packages import import_optional
from ..errors import DomainError, MfdeqError, ModelError, is_evaluation_failure
from .references import References, replaced
from .source import Function, TreeLayout
from .trees import check_dtypes, ordered_leaves

CALLER = "mfdeq.from_torch"
SHIFT = 0.01  # relative, of the point at which values are compared
RANDOM_RTOL = 1e-6  # of two values, above which they differ
MAX_REPEATS = 32  # of a function whose random numbers may seldom change its value
REPEATED_VALUE_ROUNDINGS = 1e3  # the rounding of sums in another order
ADVICE = "Solve again, or let the function use copies (tensor.clone())"


def tensor_layout(torch: ModuleType, tree: Any, name: str) -> TreeLayout:
    """Return the layout of an example: `name` is "state" or "params"."""
    return _TorchLayout(torch, tree, name)


class _TorchLayout(TreeLayout):
    """The layout of a pytree of real tensors, whose entries are concatenated in a vector."""

    def __init__(self, torch: ModuleType, tree: Any, name: str) -> None:
        self._torch, self._name = torch, f"{name} of {CALLER}"
        found = self._leaves(tree)
        dtypes = {path: str(leaf.dtype).removeprefix("torch.") for path, leaf in found.items()}
        check_dtypes(dtypes, self._name, type(tree).__name__)
        floats = [leaf.dtype for leaf in found.values() if leaf.is_floating_point()]
        dtype = functools.reduce(torch.promote_types, floats) if floats else torch.float64
        leaves = [leaf.to(dtype) for leaf in found.values()]
        self._structure = pytree().tree_structure(tree)
        self._shapes = {path: tuple(leaf.shape) for path, leaf in found.items()}
        self._sizes = [leaf.numel() for leaf in leaves]
        self.size = sum(self._sizes)
        self.example = pytree().tree_unflatten(leaves, self._structure)

    def _leaves(self, tree: Any) -> dict[str, Any]:
        """Return the leaves as tensors without gradients, by their paths."""
        leaves, _ = pytree().tree_flatten_with_path(tree)
        try:
            return {
                pytree().keystr(path): self._torch.as_tensor(leaf).detach() for path, leaf in leaves
            }
        except (TypeError, ValueError, RuntimeError) as error:
            kinds = ", ".join(sorted({type(leaf).__name__ for _, leaf in leaves}))
            raise ModelError(
                f"{self._name}: expected a real tensor or array, or a pytree of these, got "
                f"{type(tree).__name__} of {kinds}"
            ) from error

    def to_tree(self, vector: Any) -> Any:
        parts = self._torch.split(vector, self._sizes)
        shaped = [part.reshape(s) for part, s in zip(parts, self._shapes.values(), strict=True)]
        return pytree().tree_unflatten(shaped, self._structure)

    def to_vector(self, tree: Any) -> Any:
        leaves = pytree().tree_leaves(tree)
        return self._torch.cat([self._torch.as_tensor(leaf).reshape(-1) for leaf in leaves])

    def to_vector_like(self, tree: Any, vector: Any) -> Any:
        return self.to_vector(tree).to(vector.dtype)

    def flatten(self, tree: Any) -> Any:
        found = {path: (leaf, tuple(leaf.shape)) for path, leaf in self._leaves(tree).items()}
        vector = self.to_vector(ordered_leaves(found, self._shapes, self._name))
        if vector.device.type == "cpu":
            return host.asarray(vector)
        return array_on_device(vector)

    def describe(self, tree: Any) -> Any:
        return describe(tree)


def describe(tree: Any) -> Any:
    """Return the structure, shapes and dtypes of a tree."""
    torch = import_optional("torch", "torch")
    return pytree().tree_map(
        lambda leaf: (tuple(leaf.shape), str(leaf.dtype)) if torch.is_tensor(leaf) else leaf, tree
    )


def to_torch_data(torch: ModuleType, args: Any) -> Any:
    """Convert the arrays among data beside the parameters to tensors without gradients."""

    def convert(leaf: Any) -> Any:
        if torch.is_tensor(leaf):
            return leaf.detach()
        return torch.as_tensor(leaf) if isinstance(leaf, host.ndarray) else leaf

    return pytree().tree_map(convert, args)


def pytree() -> Any:
    """Return the module of PyTorch for pytrees."""
    return import_optional("torch.utils._pytree", "torch")


@functools.cache
def _recorder_class() -> Any:
    """Return a context manager class that records the tensors that operations use."""
    torch = import_optional("torch", "torch")
    mode: Any = import_optional("torch.utils._python_dispatch", "torch").TorchDispatchMode
    leaves = pytree().tree_leaves

    class Recorder(mode):
        """The tensors that a function uses and does not make itself, with their versions.

        All tensors are kept alive, so that their identities are unique.
        """

        def __init__(self, *arguments: Any) -> None:
            super().__init__()
            self.made = {id(x): x for x in arguments}
            self.used: dict[int, tuple[Any, int, int]] = {}

        def __torch_dispatch__(
            self, function: Function, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            for x in leaves((args, kwargs)):
                if torch.is_tensor(x) and id(x) not in self.made and id(x) not in self.used:
                    version = _version(x)
                    if version is not None:
                        self.used[id(x)] = (x, *version)
            out = function(*args, **(kwargs or {}))
            self.made.update((id(y), y) for y in leaves(out) if torch.is_tensor(y))
            return out

    return Recorder


def _version(x: Any) -> tuple[int, int] | None:
    """Return what changes with the values of a tensor, or None if that is not known."""
    try:
        return x._version, x.data_ptr()
    except RuntimeError:  # inference tensors have no version, and some tensors no memory
        return None


def watch_tensors(function: Function, references: References, *x: Any) -> Callable[..., None]:
    """Return a test that the tensors that a function uses have not changed, after evaluating it.

    Parameters
    ----------
    function : callable
        A function of x that calls the user's function f.
    references : References
        What f refers to.
    *x : tensors

    Returns
    -------
    callable
        ``check(compare=False)`` raises `ModelError` if tensors were changed in place or replaced,
        or if anything else that f refers to was replaced and its value at x is another one. With
        `compare` values are compared in any case.

    Raises
    ------
    ModelError
        If the function changes tensors that it uses, or returns random numbers.
    """
    torch = import_optional("torch", "torch")
    random_state = torch.random.get_rng_state()
    used: list[tuple[Any, int, int]] = []
    try:
        with _recorder_class()(*x) as recorder:
            value = function(*x)
    except MfdeqError:
        raise
    except Exception:  # a compiled function may not run in a mode of PyTorch
        value = function(*x)
    else:
        used = list(recorder.used.values())
    changed = _changed(used)
    if changed:
        raise ModelError(
            f"f of {CALLER} changes tensors that it uses ({_shapes(changed)}), as BatchNorm and "
            "spectral_norm change their buffers in training: call module.eval() first"
        )
    if not torch.equal(random_state, torch.random.get_rng_state()):
        _check_repeatable(function, x)
    return _Unchanged(function, references, x, value, used)


class _Unchanged:
    """A test that a function is that of an earlier evaluation."""

    def __init__(
        self,
        function: Function,
        references: References,
        x: tuple[Any, ...],
        value: Any,
        used: list[tuple[Any, int, int]],
    ) -> None:
        self.function, self.x, self.value, self.used = function, x, value, used
        self.tensors = {id(tensor) for tensor, *_ in used}
        self.references, self.found = references, references.current()

    def __call__(self, compare: bool = False) -> None:
        """Raise `ModelError` if the function has changed."""
        if changed := _changed(self.used):
            raise ModelError(
                f"f of {CALLER}: tensors that it uses ({_shapes(changed)}) were changed in place "
                f"after the linearization, as by an optimizer step. {ADVICE}"
            )
        others = replaced(self.found)
        if not others and not compare:
            return
        names = ", ".join(reference.name for reference in others[:3])
        if any(id(reference.value) in self.tensors for reference in others) or not self._equal():
            reason = f"{names} was replaced" if others else "something that it uses was changed"
            raise ModelError(f"f of {CALLER}: {reason} after the linearization. {ADVICE}")
        if others:
            self.found = self.references.current()

    def _equal(self) -> bool:
        """Return whether the function has the same value as before."""
        try:
            now = self.function(*self.x)
            difference, size = (now - self.value).abs().max(), self.value.abs().max()
            eps = import_optional("torch", "torch").finfo(now.dtype).eps
            if difference <= REPEATED_VALUE_ROUNDINGS * eps * size:
                return True
            # A residual at an equilibrium is itself rounding, which may differ from call to call.
            again = self.function(*self.x)
        except Exception as error:
            if isinstance(error, DomainError) or not is_evaluation_failure(error):
                raise
            return False
        return bool(difference <= REPEATED_VALUE_ROUNDINGS * (again - now).abs().max())


def _check_repeatable(function: Function, x: Any) -> None:
    """Raise `ModelError` if values of a function that draws random numbers differ.

    Dropout at a small rate seldom drops anything: as long as numbers are other ones at each
    evaluation, which those of a fixed seed are not, values are compared again.
    """
    state = import_optional("torch", "torch").random.get_rng_state
    x = [part + SHIFT * (1.0 + part.abs()) for part in x]  # away from zero, which dropout keeps
    try:
        value, latest = function(*x).detach(), state()
        for _ in range(MAX_REPEATS):
            again, before, latest = function(*x).detach(), latest, state()
            difference = (value - again).abs()
            if float(difference.sum()) > RANDOM_RTOL * float(value.abs().sum()):
                raise ModelError(
                    f"f of {CALLER} draws random numbers, so that two values at one point differ "
                    f"by {float(difference.max()):.2g}: call module.eval() first, or draw the "
                    "numbers once outside of it"
                )
            if before.equal(latest):
                return
    except ModelError:
        raise
    except Exception as error:
        if not is_evaluation_failure(error):
            raise


def _changed(used: list[tuple[Any, int, int]]) -> list[Any]:
    return [x for x, *version in used if _version(x) != tuple(version)]


def _shapes(tensors: list[Any]) -> str:
    shapes = ", ".join(str(tuple(x.shape)) for x in tensors[:3])
    more = f" and {len(tensors) - 3} more" if len(tensors) > 3 else ""
    return f"of shapes {shapes}{more}" if len(tensors) > 1 else f"of shape {shapes}"

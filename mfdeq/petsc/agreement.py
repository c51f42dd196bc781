"""What must be equal on every rank: arguments are compared by fingerprints, results by their kinds.

Vectors and matrices are distributed, and each rank passes its part. Everything else (data, indices,
weights, tolerances, sizes, names) has to be the same on every rank, or the ranks would go separate
ways and wait for each other. A rank therefore describes what it was given, and the descriptions are
compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

import scipy.sparse

from ..arrays.backend import host
from ..errors import ArgumentError, short_repr
from ..linear.protocols import Solver
from ..models.losses import LossBase, ScaledLoss, SumLoss, construction_error
from ..models.model import Model
from ..models.quadratic_losses import LeastSquares, QuadraticPrior
from ..operators.operator import Operator
from .arrays import DistributedArray, TransposedArray, is_petsc
from .errors import agree, raise_on_all_ranks
from .ranks import Ranks

Given = ParamSpec("Given")
Returned = TypeVar("Returned")

MAX_DEPTH = 3  # of attributes of an argument in which distributed objects are looked for
# Losses made of what every rank holds, by the attributes that are compared.
LOSS_ATTRIBUTES: dict[type, tuple[str, ...]] = {
    LeastSquares: ("observe", "data", "weights"),
    QuadraticPrior: ("precision", "mean"),
    ScaledLoss: ("factor", "of"),
    SumLoss: ("left", "right"),
}
# Arguments that may differ: those of the first rank count, or each rank's own.
NOT_COMPARED = ("self", "cls", "path", "checkpoint", "progress")
BROADCAST_ADVICE = (
    "Every rank passes the same numbers, and indices in the numbering of the whole vector. Make "
    "them on one rank and send them to the others: comm.tompi4py().bcast(x)"
)


@contextlib.contextmanager
def public_call(ranks: Ranks, name: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Context of a public function's call: arguments compared, errors raised on all ranks.

    Calls that mfdeq makes within another public function are not checked again.

    Parameters
    ----------
    ranks : Ranks
    name : str
        The name of the function in messages.
    arguments : mapping
        By name.

    Raises
    ------
    ArgumentError
        If the arguments that must be equal on every rank differ: it names the first of them.
    """
    if ranks.size == 1 or ranks.public_calls:
        yield
        return
    ranks.public_calls += 1
    try:
        with raise_on_all_ranks(ranks, name):
            compare(ranks, name, arguments)
            yield
    finally:
        ranks.public_calls -= 1


def compare(ranks: Ranks, name: str, arguments: Mapping[str, Any]) -> None:
    """Raise an error on all ranks unless they all hold the same arguments; a collective call."""
    if ranks.size == 1:
        return
    prints: dict[str, bytes] = {}
    with raise_on_all_ranks(ranks, name):
        for key, value in arguments.items():
            for error in construction_errors(value):
                raise error
            prints[key] = fingerprint(value)
    if agree(ranks, None, hashlib.blake2b(repr((name, prints)).encode()).digest()).equal:
        return
    everywhere = ranks.errors.allgather(
        (name, {key: (prints[key], describe(arguments[key])) for key in prints})
    )
    first = everywhere[0]
    for rank, (called, held) in enumerate(everywhere):
        if called != first[0] or set(held) != set(first[1]):
            raise ArgumentError(
                f"expected the same call on every rank, got {_call(*first)} on rank 0 and "
                f"{_call(called, held)} on rank {rank}"
            )
        for key, (bits, words) in held.items():
            if bits != first[1][key][0]:
                raise ArgumentError(_difference(f"{name}: {key}", first[1][key][1], words, rank))


def _call(name: str, held: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(held)})"


def _difference(name: str, first: str, other: str, rank: int) -> str:
    if first == other:
        got = f"{first} with other numbers on rank {rank} than on rank 0"
    else:
        got = f"{first} on rank 0 and {other} on rank {rank}"
    return f"{name}: expected the same on every rank, got {got}. {BROADCAST_ADVICE}"


def bound_arguments(signature: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return a function's arguments by name, without its ``self``."""
    try:
        bound = dict(signature.bind(*args, **kwargs).arguments)
    except TypeError as error:  # the function will raise it, on all ranks or on one
        return {"arguments": str(error)}
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            bound.update(bound.pop(name, {}))
    return {name: value for name, value in bound.items() if name not in NOT_COMPARED}


def construction_errors(x: Any) -> list[Exception]:
    """Return the errors of losses that could not be made on this rank."""
    if isinstance(x, LossBase) or hasattr(x, "loss"):
        loss = x if isinstance(x, LossBase) else x.loss
        if isinstance(loss, LossBase) and (error := construction_error(loss)) is not None:
            return [error]
    return []


def fingerprint(x: Any) -> bytes:
    """Return bytes that differ where a rank holds something else than another one.

    Distributed objects have that of their class and size, models and functions that of their names.
    """
    digest = hashlib.blake2b(digest_size=16)
    _feed(digest, x)
    return digest.digest()


def _feed(digest: Any, x: Any) -> None:
    if scipy.sparse.issparse(x):
        x = x.tocoo()
        _feed(digest, ("sparse", x.shape, x.row, x.col, x.data))
    elif isinstance(x, host.ndarray) and x.dtype != object:
        digest.update(f"{x.dtype} {x.shape}".encode())
        digest.update(host.ascontiguousarray(x).data)
    elif isinstance(x, Mapping):
        _feed(digest, sorted((str(key), value) for key, value in x.items()))
    elif isinstance(x, list | tuple):
        digest.update(f"{len(x)} of".encode())
        for entry in x:
            _feed(digest, entry)
    elif isinstance(x, LossBase):
        digest.update(type(x).__name__.encode())
        for name in LOSS_ATTRIBUTES.get(type(x), ()):
            _feed(digest, getattr(x, name))
        _feed(digest, getattr(x, "of", None))  # a distributed loss
    elif isinstance(x, Solver):
        digest.update(type(x).__name__.encode())
        names = [entry.name for entry in getattr(x, "__dataclass_fields__", {}).values()]
        _feed(digest, {name: getattr(x, name) for name in names})
    else:
        digest.update(describe(x).encode())


def describe(x: Any) -> str:
    """Describe an argument in a few words; what is distributed by its kind and size on all ranks.

    Numbers and strings are described exactly: equal descriptions mean equal values.
    """
    if isinstance(x, host.generic):
        x = x.item()
    if isinstance(x, enum.Enum):
        return str(x)
    if x is None or isinstance(x, bool | int | float | complex | str | bytes):
        return repr(x)
    if isinstance(x, DistributedArray | TransposedArray):
        return f"a distributed array of shape {tuple(map(int, x.shape))}"
    if is_petsc(x, "Vec"):
        return f"a Vec of {x.getSize()} entries on {x.getComm().getSize()} ranks"
    if is_petsc(x, "Mat"):
        return f"a {x.getType()} Mat of size {x.getSize()} on {x.getComm().getSize()} ranks"
    if isinstance(x, host.ndarray):
        return f"an array of shape {x.shape} and dtype {x.dtype}{_not_finite(x)}"
    if scipy.sparse.issparse(x):
        return f"a sparse matrix of shape {x.shape} with {x.nnz} entries{_not_finite(x.data)}"
    if isinstance(x, Model):
        return f"the model {x.display_name}"
    if isinstance(x, list | tuple):
        kind = "list" if isinstance(x, list) else "tuple"
        return f"a {kind} of {len(x)}"
    if inspect.isroutine(x):
        return f"the function {getattr(x, '__qualname__', type(x).__name__)}"
    if isinstance(x, Operator):
        return f"a {type(x).__name__} of shape {tuple(map(int, x.shape))}"
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return f"a {type(x).__name__}"
    return short_repr(x)


def _not_finite(x: Any) -> str:
    if x.dtype.kind != "f" or host.isfinite(x).all():
        return ""
    return f" with {int((~host.isfinite(x)).sum())} NaN or infinite entries"


def describe_result(x: Any) -> str:
    """Describe what a user's function returned by its kind, which must be that of every rank."""
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        given = ((entry.name, getattr(x, entry.name)) for entry in dataclasses.fields(x))
        fields = [
            f"{name}={describe_result(of)}"
            for name, of in given
            if of is not None and of is not False
        ]
        return f"{type(x).__name__}({', '.join(fields)})"
    if isinstance(x, list | tuple):
        return f"({', '.join(map(describe_result, x))})"
    if is_petsc(x, "Mat") and not x.isAssembled():
        return f"{describe(x)}, not assembled"
    if isinstance(x, bool | int | float | host.generic):
        return "a number"
    if isinstance(x, Mapping):
        return "a mapping"
    if callable(x) and not (hasattr(x, "shape") or is_petsc(x, "Vec", "Mat")):
        return "a function"
    if isinstance(x, host.ndarray):
        return f"an array of shape {x.shape} and dtype {x.dtype}"
    if scipy.sparse.issparse(x):
        return f"a sparse matrix of shape {x.shape}"
    return describe(x)


def find_ranks(arguments: Any) -> Ranks | None:
    """Return the ranks of the first distributed object among some arguments and their attributes.

    Of several communicators the one with the most ranks counts.
    """
    best: Ranks | None = None
    for x in arguments:
        ranks = _ranks_of(x, MAX_DEPTH)
        if ranks is not None and (best is None or ranks.size > best.size):
            best = ranks
        if best is not None and best.size > 1 and is_petsc(x, "Vec", "Mat"):
            break  # by far the most frequent case
    return best


def _ranks_of(x: Any, depth: int) -> Ranks | None:
    if isinstance(x, Ranks):
        return x
    if isinstance(x, DistributedArray):
        return x.device
    if is_petsc(x, "Vec", "Mat", "DM"):
        return Ranks.of(x.getComm())
    if is_petsc(x, "Comm"):
        return Ranks.of(x)
    if isinstance(x, Operator):
        return x.backend.device if isinstance(x.backend.device, Ranks) else None
    if depth == 0:
        return None
    inside: Any = ()
    if isinstance(x, Mapping):
        inside = x.values()
    elif isinstance(x, list | tuple):
        inside = x if len(x) <= 100 else ()
    elif isinstance(x, Model) or type(x).__module__.startswith(__package__.partition(".")[0]):
        inside = list(getattr(x, "__dict__", {}).values())
    for value in inside:
        if (ranks := _ranks_of(value, depth - 1)) is not None:
            return ranks
    return None


def size_of_program() -> int:
    """Return the number of ranks of the whole program, 1 if PETSc is not in use."""
    PETSc = sys.modules.get("petsc4py.PETSc")
    return 1 if PETSc is None else PETSc.COMM_WORLD.getSize()


def on_all_ranks(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Decorate a function of this package that all ranks call together; see `public_call`.

    Where a rank passes nothing that is distributed, the ranks are those of the whole program.
    """
    name = function.__qualname__.removesuffix(".__init__")
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        ranks = find_ranks((*args, *kwargs.values()))
        if ranks is None and size_of_program() > 1:
            ranks = Ranks.of(sys.modules["petsc4py.PETSc"].COMM_WORLD)
        if ranks is None or ranks.size == 1 or ranks.public_calls:
            return function(*args, **kwargs)
        with public_call(ranks, name, bound_arguments(signature, args, kwargs)):
            return function(*args, **kwargs)

    return checked

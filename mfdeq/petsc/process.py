"""What several ranks do together, where one process does it by itself."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..errors import ModelError
from .agreement import together
from .arrays import Distributed, Transposed
from .checkpoints import GatheredFile, ViewerFile
from .files import is_hdf5
from .ksp import KSP
from .ranks import Ranks
from .symmetric import Definite

__all__ = ["together"]  # and all others

ACCEPTS_REPLICATED = True
ALIKE = 1e-6  # relative difference of numbers that all ranks have computed
TOGETHER = 2**16  # rows of random numbers that are of one seed


def on_first_rank(function: Callable[[], Any], device: Ranks) -> Any:
    """What a function returns or raises on the first rank, on all."""
    return device.on_first_rank(function)


def any_rank(found: bool, device: Ranks) -> bool:
    """Whether something is so on any rank."""
    return bool(device.reduced(found, "LOR"))


def same_on_all_ranks(value: float, name: str, device: Ranks) -> float:
    """The first rank's number, from which the others' differ by rounding at most."""
    if device.size == 1:
        return value
    values = device.mpi.allgather(value)
    if not max(values) - min(values) <= ALIKE * max(map(abs, values)):
        raise ModelError(
            f"{name} is {values} on the ranks; one number was expected: sum over all of them, as "
            "Vec.dot, Vec.norm and Vec.sum do"
        )
    return values[0]


def to_user(x: Distributed) -> Any:
    """A Vec."""
    x.device.hand(x.nbytes)
    return x.vec()


def from_user(x: Any, size: int, device: Ranks) -> Any:
    """What a function of the user's returned, if what follows can go on: it is for all ranks."""
    rows = device.rows(size)
    if hasattr(x, "getOwnershipRanges") and rows is not None:
        own, ranks = x.getLocalSize() if hasattr(x, "getArray") else None, x.getComm().getSize()
        if (own, ranks) != (rows.count(device.rank), device.size):
            raise ModelError(
                f"a {type(x).__name__} came, on {ranks} ranks, {own} entries on this one; a Vec "
                f"on {device.size} ranks with {rows.count(device.rank)} was expected"
            )
    return x


def global_size(size: Any, device: Ranks) -> Any:
    """The entries of a vector: a number, or (of this rank, of all) as PETSc takes it."""
    own, total = size if isinstance(size, tuple) and len(size) == 2 else (None, size)
    if isinstance(total, bool) or not hasattr(total, "__index__") or total < 1:
        return total
    own = None if own is None else operator.index(own)
    return device.settle(operator.index(total), own).total


def from_host(backend: Backend, x: Any, rows: int | None) -> Array:
    """The rows of this rank, of a numpy array of `rows` or of as many as it has; of 0 all."""
    return backend.xp.asarray(x, dtype=backend.dtype, device=backend.device, rows=rows)


def random(backend: Backend, shape: tuple[int, ...], seed: int) -> Array:
    """Standard normal numbers; of up to `TOGETHER` rows numpy's."""
    (total, *columns), device = shape, backend.device
    if (spread := device.rows(total)) is None:
        return host.random.default_rng(seed).standard_normal(shape)
    before, own = 0, []
    for part in spread.parts or (spread,):
        own.append(_normal(seed, part.of(device.rank), before, spread.total, columns))
        before += part.total
    return Distributed(host.concatenate(own), device, spread)


def _normal(seed: int, rows: slice, before: int, total: int, columns: list[int]) -> Any:
    """Those of some rows, made in pieces that are the same whoever makes them."""
    start, stop = before + rows.start, before + rows.stop
    found = host.empty((stop - start, *columns))
    for piece in range(start // TOGETHER, -(-stop // TOGETHER)):
        first = piece * TOGETHER
        numbers = host.random.default_rng([seed, piece] if piece else seed)
        made = numbers.standard_normal((min(TOGETHER, total - first), *columns))
        lo, hi = max(start, first), min(stop, first + made.shape[0])
        found[lo - start : hi - start] = made[lo - first : hi - first]
    return found


def rows(backend: Backend, many: int, n: int) -> Transposed:
    """Zeros (many, n): vectors as rows, each in one piece of memory on every rank."""
    device = backend.device
    spread = device.rows(n)
    local = host.zeros((spread.count(device.rank), many), backend.dtype, order="F")
    return Distributed(local, device, spread).T


def files(path: str, device: Ranks) -> Any:
    """What reads and writes the checkpoint of that name."""
    return ViewerFile(device) if is_hdf5(path) else GatheredFile(device)


def solver() -> KSP:
    """What solves where nobody says."""
    return KSP()


def symmetric_solver() -> Definite:
    """What solves with a precision."""
    return Definite("mfdeq_precision_")

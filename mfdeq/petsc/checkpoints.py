"""Checkpoints of runs on ranks: what `mfdeq.files.checkpoints` reads and writes, by all of them."""

from __future__ import annotations

import base64
import json
from typing import Any

from ..arrays.backend import host
from ..files import checkpoints
from ..files.atomic import put_in_place, temporary_path
from .arrays import Distributed
from .files import viewed
from .objects import in_short
from .ranks import Ranks, Rows


class GatheredFile:
    """An npz, all of it gathered, which the first rank reads and writes."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def read(self, path: str, kind: str) -> Any:
        """What the file says that it is of, and its state."""
        return self.ranks.on_first_rank(lambda: checkpoints.read(path, kind))

    def write(self, path: str, kind: str, of: dict[str, Any], state: Any) -> None:
        """Put a state in the place of what is there."""
        members = checkpoints.members_of(kind, of, state)
        self.ranks.on_first_rank(lambda: checkpoints.put(path, *members))


class ViewerFile:
    """An HDF5 file, of which each rank reads and writes its rows.

    Distributed arrays are data sets, (n,) or (n, k), by their names in the state; all else is in
    the data set "mfdeq", JSON with a number for each byte.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def read(self, path: str, kind: str) -> Any:
        """What the file says that it is of, and its state."""
        with checkpoints.reading(path), viewed(path, "r", self.ranks.comm) as viewer:
            vec = _loaded(viewer, checkpoints.HEAD)
            words = self.ranks.mpi.allgather(vec.getArray(readonly=True).astype("uint8").tobytes())
            vec.destroy()
            found = json.loads(b"".join(words))
            arrays = {
                name: self._array(viewer, name, **how) for name, how in found["arrays"].items()
            }
            return checkpoints.taken(path, found["head"].encode(), arrays, (kind,))

    def write(self, path: str, kind: str, of: dict[str, Any], state: Any) -> None:
        """Put a state in the place of what is there."""
        from petsc4py import PETSc

        head, arrays = checkpoints.headed(kind, of, state)
        kept = {name: _told(x) for name, x in arrays.items()}
        told = {"head": head.decode(), "arrays": kept}
        words = self.ranks.on_first_rank(
            lambda: json.dumps(told).encode()
        )  # seconds differ between ranks
        try:
            with viewed(temporary_path(path), "w", self.ranks.comm) as viewer:
                _put(viewer, checkpoints.HEAD, self._bytes(words))
                for name, x in arrays.items():
                    if isinstance(x, Distributed):
                        _put(viewer, name, x)
        except PETSc.Error as error:
            raise checkpoints.unwritten(path, OSError(in_short(error))) from error
        self.ranks.on_first_rank(lambda: _placed(path))

    def _bytes(self, words: bytes) -> Distributed:
        n, size = len(words), self.ranks.size
        rows = Rows(tuple(n * rank // size for rank in range(size + 1)))
        here = host.frombuffer(words, dtype="uint8")[rows.of(self.ranks.rank)]
        return Distributed(here.astype("float64"), self.ranks, rows)

    def _array(self, viewer: Any, name: str, shape: list[int], dtype: str, bits: str | None) -> Any:
        if bits is not None:
            return host.frombuffer(base64.b64decode(bits), dtype).reshape(shape).copy()
        rows, columns = self.ranks.settle(shape[0]), shape[1:]
        own, width = rows.count(self.ranks.rank), columns[0] if columns else 1
        if not width:
            return Distributed(host.zeros((own, 0), dtype), self.ranks, rows)
        vec = _loaded(viewer, name, (own * width, rows.total * width), width)
        local = vec.getArray(readonly=True).reshape(own, *columns).astype(dtype)
        vec.destroy()
        return Distributed(local, self.ranks, rows)


def _told(x: Any) -> dict[str, Any]:
    """What is known of an array beside its data set, which small ones have not."""
    spread = isinstance(x, Distributed)
    bits = None if spread else base64.b64encode(x.tobytes()).decode()
    return {"shape": list(x.shape), "dtype": x.dtype.str, "bits": bits}


def _put(viewer: Any, name: str, x: Distributed) -> None:
    """Write an (n,) array, or an (n, k) one as a Vec of blocks of k."""
    from petsc4py import PETSc

    width = x.local.shape[1] if x.ndim == 2 else 1
    if not width:
        return
    local = host.ascontiguousarray(x.local, dtype="float64").ravel()
    size = (local.shape[0], x.size)
    vec = PETSc.Vec().createWithArray(local, size=size, bsize=width, comm=x.device.comm)
    vec.setName(name)
    viewer(vec)
    vec.destroy()


def _loaded(viewer: Any, name: str, size: Any = None, width: int = 1) -> Any:
    from petsc4py import PETSc

    vec = PETSc.Vec().create(comm=viewer.getComm())
    if size is not None:
        vec.setSizes(size, bsize=width)
        vec.setUp()
    vec.setName(name)
    vec.load(viewer)
    return vec


def _placed(path: str) -> None:
    try:
        put_in_place(path)
    except OSError as error:
        raise checkpoints.unwritten(path, error) from error

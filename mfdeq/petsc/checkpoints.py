"""Checkpoints of runs on several ranks as HDF5 files."""

from __future__ import annotations

import base64
import json
from typing import Any

from ..arrays.backend import host
from ..files import checkpoints
from ..files.atomic import put_in_place, temporary_path
from .arrays import DistributedArray
from .errors import last_line
from .files import open_viewer
from .ranks import Ranks, Rows


class Hdf5Store:
    """A checkpoint as one HDF5 file, of which each rank reads and writes its own rows.

    Distributed arrays are data sets, (n,) or (n, k), named as in the state. Everything else is JSON
    in the data set "mfdeq", with one number for each byte.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def read(self, path: str, kind: str) -> Any:
        """Return what the file says about its run, and the state in it."""
        with (
            checkpoints.explain_read_errors(path),
            open_viewer(path, "r", self.ranks.comm) as viewer,
        ):
            vec = _load_vec(viewer, checkpoints.HEADER)
            bytes_of_ranks = self.ranks.mpi.allgather(
                vec.getArray(readonly=True).astype("uint8").tobytes()
            )
            vec.destroy()
            header = json.loads(b"".join(bytes_of_ranks))
            arrays = {
                name: self._array(viewer, name, **how) for name, how in header["arrays"].items()
            }
            head, contents = header["head"].encode(), header.get("digest", "")
            return checkpoints.decode(path, head, arrays, contents, (kind,))

    def write(self, path: str, kind: str, of: dict[str, Any], state: Any) -> None:
        """Replace the file by one with this state."""
        from petsc4py import PETSc

        head, arrays = checkpoints.encode(kind, of, state)
        described = {name: _describe(x) for name, x in arrays.items()}
        # The head has times in it, which differ between ranks: the first rank's is written.
        head = self.ranks.on_first_rank(lambda: head)
        contents = checkpoints.contents_digest(head, arrays)
        header = {"head": head.decode(), "arrays": described, "digest": contents}
        words = self.ranks.on_first_rank(lambda: json.dumps(header).encode())
        try:
            with open_viewer(temporary_path(path), "w", self.ranks.comm) as viewer:
                _write_array(viewer, checkpoints.HEADER, self._bytes(words))
                for name, x in arrays.items():
                    if isinstance(x, DistributedArray):
                        _write_array(viewer, name, x)
        except PETSc.Error as error:
            raise checkpoints.write_error(path, OSError(last_line(error))) from error
        self.ranks.on_first_rank(lambda: _move_into_place(path))

    def _bytes(self, words: bytes) -> DistributedArray:
        n, size = len(words), self.ranks.size
        rows = Rows(tuple(n * rank // size for rank in range(size + 1)))
        here = host.frombuffer(words, dtype="uint8")[rows.slice_of(self.ranks.rank)]
        return DistributedArray(here.astype("float64"), self.ranks, rows)

    def _array(self, viewer: Any, name: str, shape: list[int], dtype: str, bits: str | None) -> Any:
        if bits is not None:
            return host.frombuffer(base64.b64decode(bits), dtype).reshape(shape).copy()
        rows, columns = self.ranks.agree_on_rows(shape[0]), shape[1:]
        own, width = rows.count(self.ranks.rank), columns[0] if columns else 1
        if not width:
            return DistributedArray(host.zeros((own, 0), dtype), self.ranks, rows)
        vec = _load_vec(viewer, name, (own * width, rows.total * width), width)
        local = vec.getArray(readonly=True).reshape(own, *columns).astype(dtype)
        vec.destroy()
        return DistributedArray(local, self.ranks, rows)


def _describe(x: Any) -> dict[str, Any]:
    """Return the shape and dtype of an array, with its bits if it is replicated on every rank."""
    bits = None if isinstance(x, DistributedArray) else base64.b64encode(x.tobytes()).decode()
    return {"shape": list(x.shape), "dtype": x.dtype.str, "bits": bits}


def _write_array(viewer: Any, name: str, x: DistributedArray) -> None:
    """Write an (n,) array as a Vec, or an (n, k) one as a Vec with blocks of size k."""
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


def _load_vec(viewer: Any, name: str, size: Any = None, width: int = 1) -> Any:
    """Load a Vec of that size, by default of the data set's."""
    from petsc4py import PETSc

    vec = PETSc.Vec().create(comm=viewer.getComm())
    if size is not None:
        vec.setSizes(size, bsize=width)
        vec.setUp()
    vec.setName(name)
    vec.load(viewer)
    return vec


def _move_into_place(path: str) -> None:
    try:
        put_in_place(path)
    except OSError as error:
        raise checkpoints.write_error(path, error) from error

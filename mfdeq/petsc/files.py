"""Vecs and checkpoints in one file for a run, by PETSc's viewers: for one machine and any ranks."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

from .. import checkpoints
from ..arrays import host
from ..errors import ArgumentError, CheckpointError
from ..files import PART, beside, put_in_place
from .arrays import Distributed
from .ranks import Ranks, Rows

HDF5 = (".h5", ".hdf5")
SIGNATURE = b"\x89HDF\r\n\x1a\n"


def save(path: Any, **vecs: Any) -> None:
    """Write Vecs under their names.

    Parameters
    ----------
    path : str or PathLike
        One that ends in .h5 is an HDF5 file, one data set for each (h5py reads it anywhere), where
        PETSc was built with that; others are in PETSc's binary format, one Vec after the other in
        the order given (PETSc's PetscBinaryIO reads it).
    **vecs : Vec or distributed array
        What `mfdeq.minimize` gives, too: ``save("run.h5", theta=found.params)``.

    Raises
    ------
    CheckpointError
        Where the file cannot be written.
    """
    if not vecs:
        raise ArgumentError("nothing to save; Vecs by their names were expected")
    found = {name: x.vec() if isinstance(x, Distributed) else x for name, x in vecs.items()}
    comm = next(iter(found.values())).getComm()
    with _viewed(path, "w", comm) as viewer:
        for name, vec in found.items():
            before = vec.getName()
            vec.setName(name)
            viewer(vec)
            vec.setName(before)


def load(path: Any, *names: str, comm: Any = None, **like: Any) -> dict[str, Any]:
    """The Vecs of a file of `save`, by their names.

    Parameters
    ----------
    path : str or PathLike
    *names : str
        Of those to read, spread as PETSc does; of a binary file in the order of writing.
    comm : petsc4py.PETSc.Comm, optional
        By default PETSc.COMM_WORLD.
    **like : Vec
        Others, each with a Vec that is spread as it shall be.

    Raises
    ------
    CheckpointError
        Where the file cannot be read, or has no such Vec.
    """
    from petsc4py import PETSc

    comm = PETSc.COMM_WORLD if comm is None else comm
    found = {}
    with _viewed(path, "r", comm) as viewer:
        for name in [*names, *like]:
            vec = like[name].duplicate() if name in like else PETSc.Vec().create(comm=comm)
            vec.setName(name)
            try:
                vec.load(viewer)
            except PETSc.Error as error:
                raise CheckpointError(
                    f"{path} has no Vec {name!r}, or a damaged one: {error}"
                ) from error
            found[name] = vec
    return found


def _viewer(path: Any, mode: str, comm: Any) -> Any:
    from petsc4py import PETSc

    path = os.fspath(path)
    hdf5 = path.removesuffix(PART).endswith(HDF5)
    Ranks.of(comm).once(lambda: _tried(path, mode, hdf5))
    if not hdf5:
        return PETSc.Viewer().createBinary(path, mode, comm=comm)
    if not PETSc.Sys.hasExternalPackage("hdf5"):
        raise ArgumentError(f"{path} is HDF5, which this PETSc is built without: name it .bin")
    return PETSc.Viewer().createHDF5(path, mode, comm=comm)


def _tried(path: str, mode: str, hdf5: bool) -> None:
    """An error that says what is wrong, before PETSc ends the program with one of its own."""
    try:
        with open(path, "rb" if mode == "r" else "ab") as file:
            other = hdf5 and mode == "r" and file.read(len(SIGNATURE)) != SIGNATURE
    except OSError as error:
        does = "read" if mode == "r" else "written"
        raise CheckpointError(f"{path} cannot be {does}: {error}") from error
    if other:
        raise CheckpointError(f"{path} is no HDF5 file, or a damaged one")


def is_hdf5(path: str) -> bool:
    """Whether a file of that name is written as HDF5, of a PETSc that can."""
    from petsc4py import PETSc

    return path.endswith(HDF5) and PETSc.Sys.hasExternalPackage("hdf5")


class GatheredFile:
    """An npz, all of it gathered, which the first rank reads and writes."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def read(self, path: str, kind: str) -> Any:
        """What the file says that it is of, and its state."""
        return self.ranks.once(lambda: checkpoints.read(path, kind))

    def write(self, path: str, kind: str, of: dict[str, Any], state: Any) -> None:
        """Put a state in the place of what is there."""
        members = checkpoints.members_of(kind, of, state)
        self.ranks.once(lambda: checkpoints.put(path, *members))


class ViewerFile:
    """An HDF5 file, of which each rank reads and writes its rows.

    Distributed arrays are data sets, (n,) or (n, k), by their names in the state; all else is in
    the data set "mfdeq", JSON with a number for each byte.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def read(self, path: str, kind: str) -> Any:
        """What the file says that it is of, and its state."""
        with checkpoints.reading(path), _viewed(path, "r", self.ranks.comm) as viewer:
            vec = _loaded(viewer, checkpoints.HEAD)
            words = Distributed.of(vec).gathered().astype("uint8")
            found = json.loads(bytes(words))
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
        words = self.ranks.once(lambda: json.dumps(told).encode())  # seconds differ between ranks
        try:
            with _viewed(beside(path), "w", self.ranks.comm) as viewer:
                _put(viewer, checkpoints.HEAD, self._bytes(words))
                for name, x in arrays.items():
                    if isinstance(x, Distributed):
                        _put(viewer, name, x)
        except PETSc.Error as error:
            raise checkpoints.unwritten(path, OSError(str(error))) from error
        self.ranks.once(lambda: _placed(path))

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


@contextlib.contextmanager
def _viewed(path: Any, mode: str, comm: Any) -> Iterator[Any]:
    viewer = _viewer(path, mode, comm)
    try:
        yield viewer
    finally:
        viewer.destroy()

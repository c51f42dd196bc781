"""Vecs in one file for a run, by PETSc's viewers: readable on one machine and by any ranks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from ..errors import ArgumentError, CheckpointError
from ..files.atomic import TEMPORARY_SUFFIX
from .arrays import Distributed
from .objects import in_short
from .ranks import Ranks

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
        What `mfdeq.minimize` gives, too: ``save("run.h5", theta=found.params)``. Where vectors of
        a size are those of a DMDA, they are written in the grid's natural order: x the fastest,
        the values of a node together.

    Raises
    ------
    CheckpointError
        Where the file cannot be written.
    """
    if not vecs:
        raise ArgumentError("nothing to save; Vecs by their names were expected")
    found = {}
    for name, x in vecs.items():
        if not isinstance(x, Distributed) and not hasattr(x, "getOwnershipRanges"):
            raise ArgumentError(f"{name} is a {type(x).__name__}; a Vec was expected")
        found[name] = x if isinstance(x, Distributed) else Distributed.of(x)
    with viewed(path, "w", next(iter(found.values())).device.comm) as viewer:
        for name, x in found.items():
            vec = _as_written(x)
            vec.setName(name)
            viewer(vec)
            vec.destroy()


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
        Others, each with a Vec that is spread as it shall be: one of the DMDA where it is the
        grid's order that was written.

    Raises
    ------
    CheckpointError
        Where the file cannot be read, or has no such Vec.
    """
    from petsc4py import PETSc

    comm = PETSc.COMM_WORLD if comm is None else comm
    found = {}
    with viewed(path, "r", comm) as viewer:
        for name in [*names, *like]:
            known = name in like
            vec = Distributed.of(like[name]).vec() if known else PETSc.Vec().create(comm=comm)
            vec.setName(name)
            try:
                vec.load(viewer)
            except PETSc.Error as error:
                raise CheckpointError(
                    f"{path} has no Vec {name!r} of that size, or a damaged one: {in_short(error)}"
                ) from error
            found[name] = _as_read(vec, like[name]) if known else vec
    return found


def _viewer(path: Any, mode: str, comm: Any) -> Any:
    from petsc4py import PETSc

    path = os.fspath(path)
    hdf5 = path.removesuffix(TEMPORARY_SUFFIX).endswith(HDF5)
    Ranks.of(comm).on_first_rank(lambda: _tried(path, mode, hdf5))
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


def _as_written(x: Distributed) -> Any:
    """A Vec without blocks, in a grid's natural order where those of its size are one's.

    What PETSc itself writes of blocks is read only into Vecs of the same blocks: into others it
    writes where there is no memory.
    """
    grid = x.device.grids.get(x.shape[0])
    if grid is None:
        return x.vec()
    natural, vec = grid.createNaturalVec(), x.vec()
    grid.globalToNatural(vec, natural)
    found = x.like(natural.getArray(readonly=True).copy()).vec()
    for used in (natural, vec):  # which PETSc would keep
        used.destroy()
    return found


def _as_read(vec: Any, like: Any) -> Any:
    """The same in a Vec like another; the one read is destroyed."""
    found = like.duplicate()
    grid = Ranks.of(vec.getComm()).grids.get(vec.getSize())
    if grid is None:
        vec.copy(found)
    else:
        natural = grid.createNaturalVec()
        natural.setArray(vec.getArray(readonly=True))
        grid.naturalToGlobal(natural, found)
        natural.destroy()
    vec.destroy()
    return found


@contextlib.contextmanager
def viewed(path: Any, mode: str, comm: Any) -> Iterator[Any]:
    """A viewer of a file, which ranks read ("r") or write ("w") together."""
    from petsc4py import PETSc

    viewer = _viewer(path, mode, comm)
    try:
        yield viewer
    except BaseException:
        with contextlib.suppress(PETSc.Error):  # of a file that is half read
            viewer.destroy()
        raise
    viewer.destroy()

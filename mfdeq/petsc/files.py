"""Vecs in one file for a run, by PETSc's viewers: readable on one machine and by any ranks."""

from __future__ import annotations

import os
from typing import Any

from ..errors import ArgumentError, CheckpointError
from .arrays import Distributed
from .ranks import Ranks

HDF5 = (".h5", ".hdf5")


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
    viewer = _viewer(path, "w", comm)
    for name, vec in found.items():
        before = vec.getName()
        vec.setName(name)
        viewer(vec)
        vec.setName(before)
    viewer.destroy()


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
    viewer = _viewer(path, "r", comm)
    found = {}
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
    viewer.destroy()
    return found


def _viewer(path: Any, mode: str, comm: Any) -> Any:
    from petsc4py import PETSc

    path = os.fspath(path)
    Ranks.of(comm).once(lambda: _tried(path, mode))
    if not path.endswith(HDF5):
        return PETSc.Viewer().createBinary(path, mode, comm=comm)
    if not PETSc.Sys.hasExternalPackage("hdf5"):
        raise ArgumentError(f"{path} is HDF5, which this PETSc is built without: name it .bin")
    return PETSc.Viewer().createHDF5(path, mode, comm=comm)


def _tried(path: str, mode: str) -> None:
    """An error that says what is wrong, before PETSc ends the program with one of its own."""
    try:
        with open(path, "rb" if mode == "r" else "ab"):
            pass
    except OSError as error:
        does = "read" if mode == "r" else "written"
        raise CheckpointError(f"{path} cannot be {does}: {error}") from error

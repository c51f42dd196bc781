"""Saving and loading Vecs by PETSc's viewers, for any number of ranks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from ..arrays.backend import host
from ..errors import ArgumentError, CheckpointError
from ..files.atomic import TEMPORARY_SUFFIX
from .agreement import on_all_ranks
from .arrays import DistributedArray, is_petsc
from .errors import last_line
from .ranks import Ranks

HDF5_SUFFIXES = (".h5", ".hdf5")
VEC_FILE_CLASSID = 1211214  # the first number of a Vec in PETSc's binary format
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@on_all_ranks
def save(path: Any, **vecs: Any) -> None:
    """Save Vecs under their names in one file.

    Parameters
    ----------
    path : str or PathLike
        A name that ends in .h5 or .hdf5 makes an HDF5 file, one data set for each Vec, if PETSc was
        built with HDF5; h5py reads it anywhere. Any other name makes a file in PETSc's binary
        format, with the Vecs in the order given, which PETSc's PetscBinaryIO reads.
    **vecs : Vec or distributed array
        What to save, by name. Results of mfdeq can be saved as they are:
        ``save("run.h5", theta=minimum.params)``. Vectors of the size of a DMDA's are written in the
        grid's natural order: x fastest, the values of a node together.

    Raises
    ------
    ArgumentError
        If there is nothing to save, or something is no Vec.
    CheckpointError
        If the file cannot be written.

    Examples
    --------
    >>> import os, tempfile
    >>> import mfdeq.petsc
    >>> from petsc4py import PETSc
    >>> theta = PETSc.Vec().createMPI(3)
    >>> theta.set(2.0)
    >>> path = os.path.join(tempfile.mkdtemp(), "run.bin")
    >>> mfdeq.petsc.save(path, theta=theta)
    >>> mfdeq.petsc.load(path, "theta")["theta"].sum()
    6.0
    """
    if not vecs:
        raise ArgumentError("expected Vecs by their names, got nothing to save: save(path, h=h)")
    arrays = {}
    for name, x in vecs.items():
        if not isinstance(x, DistributedArray) and not is_petsc(x, "Vec"):
            raise ArgumentError(f"{name}: expected a PETSc Vec, got a {type(x).__name__}")
        arrays[name] = x if isinstance(x, DistributedArray) else DistributedArray.from_petsc(x)
    with open_viewer(path, "w", next(iter(arrays.values())).device.comm) as viewer:
        for name, x in arrays.items():
            vec = _to_natural_order(x)
            vec.setName(name)
            viewer(vec)
            vec.destroy()


@on_all_ranks
def load(path: Any, *names: str, comm: Any = None, **like: Any) -> dict[str, Any]:
    """Load Vecs from a file that `save` has written, on any number of ranks.

    Parameters
    ----------
    path : str or PathLike
    *names : str
        Names of Vecs to load in PETSc's own layout. From a binary file they are read in the order
        in which they were written, whatever their names.
    comm : petsc4py.PETSc.Comm, optional
        By default PETSc.COMM_WORLD.
    **like : Vec
        Further Vecs to load, by name, each with a Vec whose layout it shall have: a Vec of the DMDA
        if it was written in the grid's natural order.

    Returns
    -------
    dict of Vec

    Raises
    ------
    CheckpointError
        If the file cannot be read, or has no such Vec.

    Examples
    --------
    >>> import os, tempfile
    >>> import mfdeq.petsc
    >>> from petsc4py import PETSc
    >>> h = PETSc.Vec().createMPI(4)
    >>> h.set(0.5)
    >>> path = os.path.join(tempfile.mkdtemp(), "run.bin")
    >>> mfdeq.petsc.save(path, h=h)
    >>> mfdeq.petsc.load(path, h=h)["h"].norm()
    1.0
    """
    from petsc4py import PETSc

    comm = PETSc.COMM_WORLD if comm is None else comm
    Ranks.of(comm).on_first_rank(lambda: _check_vecs(os.fspath(path), [*names, *like]))
    loaded = {}
    with open_viewer(path, "r", comm) as viewer:
        for name in [*names, *like]:
            has_layout = name in like
            vec = (
                DistributedArray.from_petsc(like[name]).vec()
                if has_layout
                else PETSc.Vec().create(comm=comm)
            )
            vec.setName(name)
            try:
                vec.load(viewer)
            except PETSc.Error as error:
                raise CheckpointError(
                    f"{path}: expected a Vec {name!r} of this size, found none or a damaged one: "
                    f"{last_line(error)}"
                ) from error
            loaded[name] = _from_natural_order(vec, like[name]) if has_layout else vec
    return loaded


def _create_viewer(path: Any, mode: str, comm: Any) -> Any:
    from petsc4py import PETSc

    path = os.fspath(path)
    hdf5 = path.removesuffix(TEMPORARY_SUFFIX).endswith(HDF5_SUFFIXES)
    Ranks.of(comm).on_first_rank(lambda: _check_file(path, mode, hdf5))
    if not hdf5:
        return PETSc.Viewer().createBinary(path, mode, comm=comm)
    if not PETSc.Sys.hasExternalPackage("hdf5"):
        raise ArgumentError(
            f"{path} is named as an HDF5 file, but this PETSc is built without HDF5: name it .bin"
        )
    return PETSc.Viewer().createHDF5(path, mode, comm=comm)


def _check_file(path: str, mode: str, hdf5: bool) -> None:
    """Raise a clear error for a file that PETSc would end the program on."""
    try:
        with open(path, "rb" if mode == "r" else "ab") as file:
            damaged = hdf5 and mode == "r" and file.read(len(HDF5_SIGNATURE)) != HDF5_SIGNATURE
    except OSError as error:
        action = "read" if mode == "r" else "written"
        raise CheckpointError(f"{path} cannot be {action}: {error}") from error
    if damaged:
        raise CheckpointError(f"{path} is not an HDF5 file, or a damaged one")


def _check_vecs(path: str, names: list[str]) -> None:
    """Raise a clear error for a binary file without these Vecs in this order.

    PETSc reads the beginning of a Vec on the first rank only, so that an error there leaves the
    other ranks waiting.
    """
    if path.endswith(HDF5_SUFFIXES):
        return
    from petsc4py import PETSc

    integer = host.dtype(PETSc.IntType).newbyteorder(">")
    scalar_size = host.dtype(PETSc.ScalarType).itemsize
    _check_file(path, "r", hdf5=False)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        for name in names:
            head = host.frombuffer(file.read(2 * integer.itemsize), "uint8")
            whole = head.size == 2 * integer.itemsize
            kind, n = map(int, head.view(integer)) if whole else (0, 0)
            end = file.tell() + n * scalar_size
            if kind != VEC_FILE_CLASSID or n < 0 or end > size:
                raise CheckpointError(
                    f"{path}: expected a Vec {name!r} of PETSc, found none or a damaged one"
                )
            file.seek(end)


def is_hdf5(path: str) -> bool:
    """Tell whether a file of that name is written as HDF5, which PETSc has to be built with."""
    from petsc4py import PETSc

    return path.endswith(HDF5_SUFFIXES) and PETSc.Sys.hasExternalPackage("hdf5")


def _to_natural_order(x: DistributedArray) -> Any:
    """Return a Vec without blocks, in a grid's natural order if vectors of its size have a grid.

    PETSc can read a Vec with blocks only into a Vec with the same blocks: with others it writes
    beyond the end of the memory.
    """
    grid = x.device.grids.get(x.shape[0])
    if grid is None:
        return x.vec()
    natural, vec = grid.createNaturalVec(), x.vec()
    grid.globalToNatural(vec, natural)
    plain = x.like(natural.getArray(readonly=True).copy()).vec()
    natural.destroy()
    vec.destroy()
    return plain


def _from_natural_order(vec: Any, like: Any) -> Any:
    """Return the numbers in a Vec like another one; the Vec that was read is destroyed."""
    ordered = like.duplicate()
    grid = Ranks.of(vec.getComm()).grids.get(vec.getSize())
    if grid is None:
        vec.copy(ordered)
    else:
        natural = grid.createNaturalVec()
        natural.setArray(vec.getArray(readonly=True))
        grid.naturalToGlobal(natural, ordered)
        natural.destroy()
    vec.destroy()
    return ordered


@contextlib.contextmanager
def open_viewer(path: Any, mode: str, comm: Any) -> Iterator[Any]:
    """Context with a viewer of a file that the ranks read ("r") or write ("w") together."""
    from petsc4py import PETSc

    viewer = _create_viewer(path, mode, comm)
    try:
        yield viewer
    except BaseException:
        with contextlib.suppress(PETSc.Error):  # the file may be half read
            viewer.destroy()
        raise
    viewer.destroy()

"""Arrays from npy and npz files of any origin: without pickles, and no larger than their file."""

from __future__ import annotations

import ast
import math
import os
import struct
import zipfile
from typing import Any, BinaryIO

from ..arrays.backend import host

MAGIC = b"\x93NUMPY"
# By the version of the format: the length of the header as `struct` has it, and its encoding.
HEADER_FORMATS = {
    b"\x01\x00": ("<H", "latin1"),
    b"\x02\x00": ("<I", "latin1"),
    b"\x03\x00": ("<I", "utf8"),
}
MAX_HEADER_SIZE = 10_000  # bytes, as in numpy: longer literals may exhaust the parser
NPY_SUFFIX = ".npy"
MAX_READ = 2**24  # bytes at a time


class DamagedFileError(ValueError):
    """The contents of a file are not what its format says. Callers raise an error of their own."""


def read_npy(path: str | os.PathLike) -> Any:
    """Read the array in an npy file.

    Raises
    ------
    OSError
        If the file cannot be read.
    DamagedFileError
        If it is not an npy file, is damaged, or holds Python objects, which are never unpickled.
    """
    with open(path, "rb") as file:
        return _read_array(file, os.fstat(file.fileno()).st_size)


def read_npz(path: str | os.PathLike) -> dict[str, Any]:
    """Read all arrays of an uncompressed npz file, by their names.

    Raises
    ------
    OSError
        If the file cannot be read.
    DamagedFileError
        If it is not such a file, is damaged, or holds Python objects, which are never unpickled.
    """
    arrays = {}
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    stored = member.compress_type == zipfile.ZIP_STORED
                    if not stored or member.file_size > size:
                        raise DamagedFileError(f"{member.filename}: expected no compression")
                    with archive.open(member) as stream:
                        name = member.filename.removesuffix(NPY_SUFFIX)
                        arrays[name] = _read_array(stream, member.file_size)
        except (MemoryError, OSError, DamagedFileError):
            raise
        except Exception as error:  # of zipfile: BadZipFile, RuntimeError, NotImplementedError, ...
            raise DamagedFileError(f"{type(error).__name__}: {error}") from error
    return arrays


def _read_array(file: Any, size: int) -> Any:
    """Read the array that a stream of `size` bytes consists of."""
    try:
        shape, order, dtype, start = _read_header(file)
        nbytes = math.prod(shape) * dtype.itemsize
    except Exception as error:  # of the parser of the header
        raise DamagedFileError(f"no header of an npy file ({type(error).__name__})") from error
    if dtype.hasobject:
        raise DamagedFileError("expected an array of numbers or strings, got Python objects")
    if start + nbytes != size:  # before memory is allocated
        raise DamagedFileError(f"expected {start + nbytes} bytes by the header, got {size}")
    data = host.empty(nbytes, dtype="uint8")
    at = 0
    while at < nbytes and (count := file.readinto(data[at : at + MAX_READ])):
        at += count
    if at < nbytes or file.read(1):  # reading to the end makes archives compare their checksum
        raise DamagedFileError(f"expected {nbytes} bytes of entries, got {at}")
    try:
        return data.view(dtype).reshape(shape, order=order)
    except Exception as error:  # of entries without bytes, or of too many or too long axes
        raise DamagedFileError(
            f"expected an array that numpy can hold, got shape {shape} of {dtype}: {error}"
        ) from error


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], Any, Any, int]:
    """Return the shape, the order in memory, the dtype, and where the entries begin."""
    if file.read(len(MAGIC)) != MAGIC:
        raise DamagedFileError("expected the first bytes of an npy file")
    length_format, encoding = HEADER_FORMATS[file.read(2)]
    length_size = struct.calcsize(length_format)
    (length,) = struct.unpack(length_format, file.read(length_size))
    if length > MAX_HEADER_SIZE:
        raise DamagedFileError(f"expected a header of {MAX_HEADER_SIZE} bytes, got {length}")
    header = ast.literal_eval(file.read(length).decode(encoding).strip())
    shape, fortran_order, descr = (header[key] for key in ("shape", "fortran_order", "descr"))
    if not all(isinstance(n, int) and n >= 0 for n in shape) or not isinstance(shape, tuple):
        raise DamagedFileError(f"expected a shape, got {shape}")
    dtype = host.lib.format.descr_to_dtype(descr)
    start = len(MAGIC) + 2 + length_size + length
    return shape, "F" if fortran_order else "C", dtype, start

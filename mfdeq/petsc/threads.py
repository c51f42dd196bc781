"""Threads of BLAS and OpenMP: several ranks on one machine share its cores.

Each rank would otherwise start as many threads as there are cores, and the threads of all ranks
wait for each other: small problems on two ranks then take several times as long as on one.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..parallel import available_cores, threads

# If the user has set any of these, threads are left as they are.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
)
# By a part of a library's file name, its functions that set and get the number of threads.
THREAD_FUNCTIONS = {
    "openblas": [
        (f"{prefix}openblas_set_num_threads{suffix}", f"{prefix}openblas_get_num_threads{suffix}")
        for prefix in ("", "scipy_")
        for suffix in ("", "64_")
    ],
    "mkl_rt": [("MKL_Set_Num_Threads", "MKL_Get_Max_Threads")],
    "blis": [("bli_thread_set_num_threads", "bli_thread_get_num_threads")],
    "libgomp": [("omp_set_num_threads", "omp_get_max_threads")],
    "libiomp": [("omp_set_num_threads", "omp_get_max_threads")],
}
MAPPED_FILES = Path("/proc/self/maps")


def limit_threads(mpi: Any) -> int | None:
    """Limit the threads of each rank to its share of the cores of its machine.

    Parameters
    ----------
    mpi : mpi4py.MPI.Comm
        The ranks; a collective call.

    Returns
    -------
    int or None
        The number of threads of this rank. None if it has not been set: the ranks have machines of
        their own, or the user has set one of `THREAD_VARIABLES`.
    """
    from mpi4py import MPI

    machine = mpi.Split_type(MPI.COMM_TYPE_SHARED)
    cores = machine.allgather(available_cores())
    machine.Free()
    if len(cores) == 1 or any(name in os.environ for name in THREAD_VARIABLES):
        return None
    share = max(1, len(set().union(*cores)) // len(cores))
    set_thread_limit(share)
    return share


def set_thread_limit(limit: int) -> None:
    """Reduce the threads of mfdeq and of the loaded BLAS and OpenMP libraries to a limit.

    That of the libraries is done by threadpoolctl where it is installed.
    """
    if threads() > limit:
        threads(limit)
    try:
        import threadpoolctl
    except ImportError:
        for set_threads, get_threads in thread_functions():
            if get_threads() > limit:
                set_threads(limit)
    else:
        threadpoolctl.threadpool_limits(limits=limit)


def thread_functions() -> Iterator[tuple[Any, Any]]:
    """Yield the functions of the loaded libraries that set and get the number of threads."""
    if not MAPPED_FILES.exists():
        return
    lines = MAPPED_FILES.read_text().splitlines()
    for path in sorted({line.split()[-1] for line in lines if "/" in line and ".so" in line}):
        for part, names in THREAD_FUNCTIONS.items():
            if part not in Path(path).name:
                continue
            library = ctypes.CDLL(path)
            for setter, getter in names:
                if hasattr(library, setter) and hasattr(library, getter):
                    yield getattr(library, setter), getattr(library, getter)

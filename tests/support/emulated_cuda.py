"""CUDA kernels compiled by gcc and run thread after thread, on a machine without a device.

The threads of a block run from the last to the first, so that a shuffle finds the values that the
lanes above passed to the same call.
"""

from __future__ import annotations

import ctypes
import functools
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

SHIM = """
typedef struct { unsigned x; } place;
static place threadIdx, blockIdx, blockDim, gridDim;
static real shuffled[4096][1024];  /* by shuffle and thread */
static int shuffle;
static real __shfl_down_sync(unsigned mask, real value, int offset, int width) {
    shuffled[shuffle][threadIdx.x] = value;
    if ((int)(threadIdx.x % width) + offset < width)
        value = shuffled[shuffle][threadIdx.x + offset];
    ++shuffle;
    return value;
}
"""
LAUNCH = """
void launch_{name}(unsigned grid, unsigned block, {parameters}) {{
    gridDim.x = grid; blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)
        for (threadIdx.x = block; threadIdx.x-- > 0;) {{ shuffle = 0; {name}({arguments}); }}
}}
"""
KERNEL = re.compile(r'extern "C" __global__ void (\w+)\(([^)]*)\)')


class Module:
    """A stand-in for `cupy.RawModule`: compiles a source and returns its kernels by name."""

    def __init__(self, code: str) -> None:
        self.library, self.names = _compile(code)

    def get_function(self, name):
        assert name in self.names
        function = getattr(self.library, f"launch_{name}")
        function.restype = None
        return functools.partial(_launch, function)


def _launch(function, grid, block, arguments):
    function(ctypes.c_uint(grid[0]), ctypes.c_uint(block[0]), *map(_as_ctypes, arguments))


def _as_ctypes(x):
    if isinstance(x, np.integer):
        return (ctypes.c_longlong if x.dtype.itemsize == 8 else ctypes.c_int)(int(x))
    if isinstance(x, np.floating):
        return (ctypes.c_double if x.dtype.itemsize == 8 else ctypes.c_float)(float(x))
    x = getattr(x, "_a", x)  # the numpy array in a simulated one
    assert isinstance(x, np.ndarray)
    assert x.flags.c_contiguous
    return ctypes.c_void_p(x.ctypes.data)


@functools.cache
def _compile(code):
    types, source = re.fullmatch(r"((?:typedef [^\n]*\n){2})(.*)", code, re.DOTALL).groups()
    launches, names = "", []
    for name, parameters in KERNEL.findall(source):
        arguments = ", ".join(p.split()[-1].lstrip("*") for p in parameters.split(","))
        launches += LAUNCH.format(name=name, parameters=parameters, arguments=arguments)
        names.append(name)
    whole = types + SHIM + KERNEL.sub(r"static void \1(\2)", source) + launches
    folder = Path(tempfile.mkdtemp())
    (folder / "kernels.c").write_text(whole)
    command = ["gcc", "-std=c11", "-O1", "-shared", "-fPIC", "-o", "kernels.so", "kernels.c"]
    subprocess.run(command, cwd=folder, check=True)
    # PyDLL keeps the interpreter's lock: the variables of SHIM are those of one launch at a time.
    return ctypes.PyDLL(str(folder / "kernels.so")), names

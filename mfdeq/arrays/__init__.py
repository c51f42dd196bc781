"""The array library, chosen once from the arrays in hand, and what depends on it.

`Backend` is what the rest of the package asks; `ArrayLibrary` is what a library has to offer, and
`register` adds one. The inner loops (`kernels`, for cupy `cuda`), sparse matrices, memory, seeding
and optional packages are here because they depend on the library as well. Nothing here knows of
operators, models or solvers.
"""

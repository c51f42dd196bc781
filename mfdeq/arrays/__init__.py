"""Array libraries, and code that depends on them.

The rest of the package uses a `Backend`, which is chosen once from the user's arrays;
`ArrayLibrary` is the interface that a library implements, and `register` adds one. The inner loops
(`kernels`, `compiled` for large arrays of numpy, `cuda` for cupy), sparse matrices, memory, seeding
and optional packages are here too. This package does not depend on operators, models or solvers.
"""

"""The linear systems that the benchmarks solve: what equilibria of several kinds lead to.

`SYSTEMS` maps a name to a function of `small` that builds the `System`.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from scipy.ndimage import gaussian_filter

BRATU_FOLD = 6.808124  # lambda of the fold of the Bratu problem on the unit square
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Layer:
    """A = I - diag(slope) (W applied to each sample): products without entries.

    Attributes
    ----------
    slope : (batch, state) array
        The derivatives of the activation.
    W : (state, state) array
    """

    slope: np.ndarray
    W: np.ndarray

    def product(self, x: np.ndarray) -> np.ndarray:
        """A x of an (N,) or (N, k) x."""
        blocks = x.reshape(*self.slope.shape, -1)
        return (blocks - self.slope[..., None] * (self.W @ blocks)).reshape(x.shape)

    def adjoint_product(self, y: np.ndarray) -> np.ndarray:
        """A' y of an (N,) or (N, k) y."""
        blocks = y.reshape(*self.slope.shape, -1)
        return (blocks - self.W.T @ (self.slope[..., None] * blocks)).reshape(y.shape)

    def operator(self) -> spla.LinearOperator:
        """The two products as one LinearOperator."""
        product, adjoint = self.product, self.adjoint_product
        return spla.LinearOperator(
            (self.slope.size, self.slope.size),
            matvec=product,
            rmatvec=adjoint,
            matmat=product,
            rmatmat=adjoint,
            dtype=np.float64,
        )


@dataclass(frozen=True)
class System:
    """A linear system, and what a solver may be told about it.

    Attributes
    ----------
    title : str
    A : csr_matrix
    symmetric : bool
        And then positive definite.
    dimension : int
        Of the domain; 0 where there is none.
    near_nullspace : (N, m) array, optional
        What a coarse space has to represent.
    block : int
        Unknowns per node.
    layer : Layer, optional
        Products that need no entries.
    """

    title: str
    A: sp.csr_matrix
    symmetric: bool
    dimension: int
    near_nullspace: np.ndarray | None = None
    block: int = 1
    layer: Layer | None = None

    def __post_init__(self) -> None:
        self.A.sum_duplicates()
        self.A.sort_indices()

    @property
    def size(self) -> int:
        """N."""
        return self.A.shape[0]

    def sides(self, columns: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Right-hand sides of A and of A': vectors for one column, else blocks."""
        shape = (self.size,) if columns == 1 else (self.size, columns)
        rng = np.random.default_rng(seed)
        return rng.standard_normal(shape), rng.standard_normal(shape)


def lognormal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A smooth log-coefficient of unit variance."""
    white = np.random.default_rng(seed).standard_normal(shape)
    field = gaussian_filter(white, shape[0] / 32, mode="reflect")
    return field / field.std()


def along(axis: int, matrix: sp.spmatrix, n: int, dimension: int) -> sp.csr_matrix:
    """A one-dimensional operator along one axis of a grid of n points each way."""
    eye = sp.identity(n, format="csr")
    out = sp.identity(1, format="csr")
    for j in range(dimension):
        out = sp.kron(out, matrix if j == axis else eye, format="csr")
    return out


def faces(n: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Differences and averages over the n + 1 faces of n cells, zero outside."""
    lower = sp.eye(n + 1, n, k=0, format="csr")
    upper = sp.eye(n + 1, n, k=-1, format="csr")
    average = lower + upper
    average = sp.diags(1.0 / np.asarray(average.sum(axis=1)).ravel()) @ average
    return (lower - upper).tocsr(), average.tocsr()


def stiffness(theta: np.ndarray) -> sp.csr_matrix:
    """-div(exp(theta) grad) on the cells of theta, zero at the rim, unit spacing."""
    n, dimension = theta.shape[0], theta.ndim
    difference, average = faces(n)
    A = sp.csr_matrix((n**dimension, n**dimension))
    for axis in range(dimension):
        D = along(axis, difference, n, dimension)
        k = np.exp(along(axis, average, n, dimension) @ theta.ravel())
        A = A + D.T @ sp.diags(k) @ D
    return sp.csr_matrix(A)


def diffusion(n: int, dimension: int) -> System:
    """Five-point or seven-point diffusion with a lognormal coefficient."""
    stencil = {2: "five-point", 3: "seven-point"}[dimension]
    power = {2: "²", 3: "³"}[dimension]
    A = stiffness(lognormal((n,) * dimension))
    return System(f"{stencil} lognormal diffusion {n}{power}", A, True, dimension)


def wind(n: int, peclet: float) -> sp.csr_matrix:
    """A recirculating wind, upwind on n x n cells of unit spacing and diffusivity.

    With this largest cell Péclet number.
    """
    centre = (2.0 * np.arange(n) + 1.0) / n - 1.0
    y, x = (part.ravel() for part in np.meshgrid(centre, centre, indexing="ij"))
    winds = {0: -2.0 * x * (1.0 - y**2), 1: 2.0 * y * (1.0 - x**2)}
    difference, _ = faces(n)
    backward, forward = difference[:-1], difference[1:]  # u_i - u_(i-1), u_(i+1) - u_i, signed
    W = sp.csr_matrix((n * n, n * n))
    fastest = max(np.abs(speed).max() for speed in winds.values())
    for axis, speed in winds.items():
        rate = peclet / fastest * speed
        W = W + sp.diags(np.maximum(rate, 0.0)) @ along(axis, backward, n, 2)
        W = W + sp.diags(np.minimum(rate, 0.0)) @ along(axis, forward, n, 2)
    return sp.csr_matrix(W)


def convection(n: int, peclet: float = 10.0) -> System:
    """Upwind convection-diffusion in a recirculating wind, with this largest cell Péclet number."""
    A = stiffness(np.zeros((n, n))) + wind(n, peclet)
    return System(f"convection-diffusion {n}², cell Péclet {peclet:g}", sp.csr_matrix(A), False, 2)


def convection_in_volume(n: int, peclet: float = 10.0) -> System:
    """Upwind convection-diffusion on n x n x n cells in a wind that turns along one axis."""
    centre = (2.0 * np.arange(n) + 1.0) / n - 1.0
    _, y, x = (part.ravel() for part in np.meshgrid(centre, centre, centre, indexing="ij"))
    winds = [0.5 * (1 - x**2) * (1 - y**2), -2 * x * (1 - y**2), 2 * y * (1 - x**2)]
    difference, _ = faces(n)
    fastest = max(np.abs(speed).max() for speed in winds)
    A = stiffness(np.zeros((n, n, n)))
    for axis, speed in enumerate(winds):
        rate = peclet / fastest * speed
        A = A + sp.diags(np.maximum(rate, 0.0)) @ along(axis, difference[:-1], n, 3)
        A = A + sp.diags(np.minimum(rate, 0.0)) @ along(axis, difference[1:], n, 3)
    title = f"convection-diffusion {n}³, cell Péclet {peclet:g}"
    return System(title, sp.csr_matrix(A), False, 3)


def bratu(n: int, share: float = 0.99) -> System:
    """The Jacobian of -lap h = lambda exp(h) at a share of the lambda of the fold."""
    laplacian = stiffness(np.zeros((n, n))) * (n + 1) ** 2
    h = np.zeros(n * n)
    options = {"permc_spec": "MMD_AT_PLUS_A", "options": {"SymmetricMode": True}}
    for _ in range(20):
        source = share * BRATU_FOLD * np.exp(h)
        A = (laplacian - sp.diags(source)).tocsc()
        step = spla.splu(A, diag_pivot_thresh=0.01, **options).solve(source - laplacian @ h)
        h += step
        if np.abs(step).max() < 1e-8:
            break
    A = laplacian - sp.diags(share * BRATU_FOLD * np.exp(h))
    return System(f"Bratu {n}² at {share:g} of the fold", sp.csr_matrix(A), True, 2)


def example_named(name: str):
    """The module of an example."""
    path = ROOT / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


def terrain(rows: int | None) -> System:
    """A of the groundwater example at its equilibrium, from so many rows of the terrain."""
    import mfdeq

    example = example_named("groundwater")
    ground = example.load_terrain() if rows is None else example.load_terrain(rows)
    model = example.Groundwater(ground)
    theta = np.full(model.param_size, np.log(example.CONDUCTIVITY))
    eq = mfdeq.solve(model, theta, solver=mfdeq.Direct())
    A = sp.csr_matrix(eq.state_operator.array)
    ny, nx = ground.elevation.shape
    return System(f"groundwater under terrain, {ny} × {nx}", A, False, 2)


def network(side: int, seed: int = 0) -> System:
    """The Laplacian of a lattice thinned to degree 3, 5 % long edges, grounded at a few nodes."""
    rng = np.random.default_rng(seed)
    n = side * side
    node = np.arange(n).reshape(side, side)
    near = np.concatenate(
        [
            np.stack([node[:, :-1].ravel(), node[:, 1:].ravel()]),
            np.stack([node[:-1].ravel(), node[1:].ravel()]),
        ],
        axis=1,
    )
    lattice = sp.coo_matrix((rng.random(near.shape[1]), near), shape=(n, n)).tocsr()
    tree = sp.csgraph.minimum_spanning_tree(lattice).tocoo()
    rest = rng.choice(near.shape[1], n // 2 + 1, replace=False)  # the tree has n - 1 edges
    far = rng.integers(0, n, (2, round(0.05 * 1.5 * n)))
    pairs = np.concatenate([np.stack([tree.row, tree.col]), near[:, rest], far], axis=1)
    weight = rng.lognormal(0.0, 1.0, pairs.shape[1])
    edge = np.arange(pairs.shape[1])
    incidence = sp.csr_matrix((np.ones(edge.size), (edge, pairs[0])), shape=(edge.size, n))
    incidence -= sp.csr_matrix((np.ones(edge.size), (edge, pairs[1])), shape=(edge.size, n))
    grounded = np.zeros(n)
    grounded[rng.choice(n, 10, replace=False)] = 1.0
    A = incidence.T @ sp.diags(weight) @ incidence + sp.diags(grounded)
    return System(f"power-network-like Laplacian, {edge.size:,} edges", sp.csr_matrix(A), True, 0)


def random_graph(n: int, degree: float = 3.0, seed: int = 0) -> System:
    """The shifted Laplacian of n nodes that edges join at random, so many at each on average."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, n, (2, round(n * degree / 2)))
    pairs = pairs[:, pairs[0] != pairs[1]]
    edges = sp.coo_matrix((np.ones(pairs.shape[1]), pairs), shape=(n, n)).tocsr()
    weights = edges + edges.T
    A = sp.diags(np.asarray(weights.sum(axis=1)).ravel() + 1.0) - weights
    return System(f"random graph, {degree:g} edges at a node", sp.csr_matrix(A), True, 0)


def elasticity(nodes: int) -> System:
    """Q1 plane strain on nodes x nodes, clamped on one side, with its rigid motions."""
    from pyamg.gallery.elasticity import q12d

    A, B = q12d((nodes, nodes), dirichlet_boundary=False, format="csr")
    free = np.flatnonzero(np.arange(A.shape[0]) // 2 % nodes)  # the first node of each row is held
    A = sp.csr_matrix(A)[free][:, free]
    motions = np.ascontiguousarray(B[free])
    return System(f"plane-strain elasticity {nodes}² nodes", A, True, 2, motions, block=2)


def layer(state: int, batch: int, norm: float = 0.95, seed: int = 0) -> System:
    """I - J at the equilibrium of h = tanh(W h + U x), J of this 2-norm: dense blocks."""
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((state, state))
    W /= np.linalg.norm(W, 2)
    inputs = 0.5 * rng.standard_normal((batch, state))
    for _ in range(20):
        h = np.zeros((batch, state))
        for _ in range(500):
            h = np.tanh(h @ W.T + inputs)
        slope = 1.0 - h**2
        largest = max(np.linalg.norm(s[:, None] * W, 2) for s in slope)
        if abs(largest / norm - 1.0) < 1e-3:
            break
        W *= norm / largest
    blocks = [np.eye(state) - s[:, None] * W for s in slope]
    A = sp.block_diag(blocks, format="csr")
    title = f"implicit layer, state {state} × batch {batch}"
    return System(title, sp.csr_matrix(A), False, 0, block=state, layer=Layer(slope, W))


SYSTEMS = {
    "diffusion2d": lambda small: diffusion(24 if small else 256, 2),
    "diffusion2d-large": lambda small: diffusion(28 if small else 1024, 2),
    "diffusion3d": lambda small: diffusion(8 if small else 64, 3),
    "diffusion3d-large": lambda small: diffusion(9 if small else 100, 3),
    "convection": lambda small: convection(16 if small else 256),
    "bratu": lambda small: bratu(16 if small else 256),
    "terrain": lambda small: terrain(40 if small else None),
    "network": lambda small: network(16 if small else 316),
    "elasticity": lambda small: elasticity(10 if small else 200),
    "layer": lambda small: layer(8 if small else 64, 8 if small else 256),
}

"""Models composed of many parts: steps in time, and batches of samples.

Each is one model with a structured state operator, whose factor is composed of those of its parts,
with a forward method and a class of equilibria of its own. The room lies above `equilibrium`
because of that class, and because parts are prepared like any model that is solved. Everything else
reaches a composition through `Model`, and knows nothing of its parts.
"""

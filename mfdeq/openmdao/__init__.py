"""Models in OpenMDAO: one as an implicit component there, and a problem from there as a model.

This package translates between the vectors of OpenMDAO's systems and the state and parameters of a
model. How an equilibrium is solved and differentiated does not belong here. OpenMDAO is imported
when a function is called. Requires ``pip install mfdeq[openmdao]``.
"""

from .component import component
from .from_problem import ProblemModel, from_problem

__all__ = ["ProblemModel", "component", "from_problem"]

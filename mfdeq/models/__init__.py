"""The model interface between user code and the rest of the library.

This package contains the base classes of models, their linearizations and curvatures, losses, and
the layer that applies the sign conventions and checks the results of user functions (`problem` and
`checked_linearization`). Derivatives are computed in `mfdeq.derivatives`, and equilibria in
`mfdeq.forward` and `mfdeq.equilibrium`.
"""

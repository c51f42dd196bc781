"""The model interface: what users write, and how the rest of the library sees it.

Here are the base classes of models, their linearizations and curvatures, losses, and the layer that
applies the sign conventions and checks what a user's functions return (`linearization`). Nothing
here computes a derivative, which is for `mfdeq.derivatives`, and nothing solves for an equilibrium,
which is for `mfdeq.forward` and `mfdeq.equilibrium`.
"""

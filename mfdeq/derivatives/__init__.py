"""Sources of derivatives: models and losses from a function alone.

A source is a `mfdeq.models.model.Model` whose ``linearize`` computes derivatives. Those of JAX and
PyTorch share the models of `automatic`, and the contract for such a library is `DerivativeSource`
in `source`; `function` differentiates numerically, and `mixed` takes each derivative from one of
several models. Sparsity patterns, and what they save, are here as well. A new source is one module
here and one line in the list of public names; nothing after the linearization knows which it was.
"""

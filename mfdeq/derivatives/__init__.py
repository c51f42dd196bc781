"""Sources of derivatives: models and losses that differentiate a user's function.

A source is a `mfdeq.models.model.Model` whose ``linearize`` computes derivatives. The models of
JAX and PyTorch are in `automatic`, with the interface `DerivativeSource` in `source`; `function`
differentiates numerically, and `mixed` combines the derivatives of several models. Sparsity
patterns are handled here too. To add a source, write a module here and list its function among the
public names; the rest of the library does not depend on the source.
"""

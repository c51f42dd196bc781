"""Gaussian priors with precision R: products, solves, samples, variances and determinants.

R is also the inner product of a generalized eigenproblem H x = μ R x. The loss of a Gaussian prior,
`mfdeq.QuadraticPrior`, belongs to `mfdeq.models`, and posteriors (`mfdeq.LowRank`) belong to
`mfdeq.spectrum`.
"""

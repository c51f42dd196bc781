"""Gaussian priors, by their precision R: products, solves, samples, variances and determinants.

R is also the inner product of a generalized eigenproblem H x = μ R x. Losses that penalize a
distance from a mean are models' (`mfdeq.QuadraticPrior`), posteriors are the spectrum's
(`mfdeq.LowRank`).
"""

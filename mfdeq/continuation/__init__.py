"""Branches of equilibria along a direction of the parameters."""

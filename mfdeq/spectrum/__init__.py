"""Eigenvalues of symmetric operators, with bounds."""

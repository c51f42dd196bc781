"""What the library uses of nvmath-python, computed by scipy on the memory of simulated arrays."""

__version__ = "simulated"

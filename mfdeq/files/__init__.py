"""Files that survive an interruption: atomic writes, and the checkpoints of long runs.

Minimization, continuation and eigenvalue solvers write their state here and continue from it. Each
solver decides what its state consists of; this room handles only dicts, lists, plain values and
arrays. Studies of many cases use a directory instead: see `mfdeq.studies`.
"""

"""Files that survive an interruption: atomic writes, and the checkpoints of long runs.

Minimization, continuation and eigenvalue solvers write their state here and continue from it. What
the state consists of is theirs; this room knows only dicts, lists, plain values and arrays. Studies
of many cases have a directory of their own, in `mfdeq.studies`.
"""

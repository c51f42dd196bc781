"""The harness: bring every configuration to the same true residual, then time them in turn.

A configuration works in a process of its own (or, for tests, in this one), so that a hopeless one
can be stopped and its memory measured. First each is set up, and its tolerance is moved until the
true residual is just met; then all are timed round after round, so that noise affects all alike.
Times are processor times, to which other users of the core do not add.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import statistics
import time
import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from .peers import MAX_ITERATIONS, RTOL, Peer
from .systems import System

SETUP = 0  # the key of the set-up among the samples, where a product has its number of columns
PRODUCTS = 50  # of one set-up, in the cost
MOVES = 30  # of a tolerance
QUICK = 1.0  # seconds of what is timed once more whatever the share
FIRM, LOOSE = 0.3, 100.0  # a tolerance's step; a residual this far below the target is loosened
SHARE = 0.2  # of the time limit that a block may be expected to take
MEMORY = 9 * 2**30  # bytes of one configuration
RETIRE = 1.5 * 2**30  # bytes above which what is not among the best does not stay for the rounds


class Failed(Exception):
    """A configuration that gave no figure, and why."""


@dataclass
class Row:
    """What was measured of one configuration.

    Attributes
    ----------
    samples : dict of int to list of float
        Seconds of the set-up (key `SETUP`) and of products of so many columns.
    memory : float
        Peak of a product, in vectors of length N per column.
    residual : float
        The relative true residual of the last attempt.
    note : str
        What to print below the table.
    failed : bool
        Whether the note says why there are no figures.
    """

    family: str
    name: str
    samples: dict[int, list[float]] = field(default_factory=dict)
    iterations: str = ""
    memory: float = float("nan")
    residual: float = 0.0
    note: str = ""
    failed: bool = False

    @property
    def label(self) -> str:
        return f"{self.family} {self.name}"

    def seconds(self, columns: int) -> float:
        """Median of the set-up or of a product per column."""
        taken = self.samples.get(columns)
        return statistics.median(taken) / max(columns, 1) if taken else float("nan")

    @property
    def cost(self) -> float:
        """The set-up and what follows from it."""
        return self.seconds(SETUP) + PRODUCTS * self.seconds(1)


class Runner:
    """One configuration at work on one system."""

    def __init__(self, system: System, peer: Peer) -> None:
        self.system, self.peer = system, peer
        self.solves = None
        self.prepared: dict = {}
        self.rtol = RTOL

    def set_up(self) -> float:
        """Seconds of a set-up."""
        self.solves = None
        gc.collect()
        start = time.process_time()
        self.solves = self.peer.setup(self.system)
        seconds = time.process_time() - start
        self.solves.rtol = self.rtol
        return seconds

    def move(self, rtol: float) -> None:
        """Another tolerance."""
        self.rtol = self.solves.rtol = rtol

    def product(self, columns: int) -> float:
        """Seconds of a solve and an adjoint solve."""
        if columns == SETUP:
            return self.set_up()
        return self._product(columns)[0]

    def attempt(self, columns: int) -> tuple[float, float, list]:
        """Seconds, the largest relative true residual, and the iterations of the two solves."""
        seconds, solutions, iterations = self._product(columns)
        A = self.system.A
        worst = 0.0
        for matrix, b, x in zip((A, A.T), self.system.sides(columns), solutions, strict=True):
            r = b - matrix @ self.solves.collect(x)
            worst = max(worst, np.max(np.linalg.norm(r, axis=0) / np.linalg.norm(b, axis=0)))
        return seconds, float(worst), iterations

    def memory(self, columns: int) -> float:
        """Peak of a product in vectors of length N per column."""
        b, c = self._sides(columns)
        tracemalloc.start()
        x = self.solves.solve(b)
        y = self.solves.solve_adjoint(c)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        del x, y
        return peak / (8 * self.system.size * columns)

    def facts(self) -> tuple[bool, bool, str, int]:
        """Tunable, traceable, the note, and the bytes in use."""
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return self.solves.tunable, self.solves.traceable, self.solves.note, peak

    def _sides(self, columns: int) -> list:
        if columns not in self.prepared:
            sides = self.system.sides(columns)
            self.prepared[columns] = [self.solves.prepare(side) for side in sides]
        return self.prepared[columns]

    def _product(self, columns: int) -> tuple[float, list, list]:
        solves = self.solves
        b, c = self._sides(columns)
        start = time.process_time()
        x = solves.solve(b)
        first = solves.iterations
        y = solves.solve_adjoint(c)
        return time.process_time() - start, [x, y], [first, solves.iterations]


class Local:
    """A runner in this process."""

    def __init__(self, system: System, peer: Peer) -> None:
        self.runner = Runner(system, peer)

    def call(self, method: str, *arguments, limit: float = 0.0):
        """What the runner's method returns."""
        try:
            return getattr(self.runner, method)(*arguments)
        except Exception as error:
            raise Failed(_said(error)) from error

    def stop(self) -> None:
        del self.runner


class Remote:
    """A runner in a process of its own, which ends where it exceeds its time."""

    def __init__(self, system: System, peer: Peer) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, system, peer, os.getpid())
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def call(self, method: str, *arguments, limit: float):
        """What the runner's method returns within so many seconds."""
        try:
            self.pipe.send((method, arguments))
            if not self.pipe.poll(limit):
                self.stop()
                said = _spoken(method, arguments)
                raise Failed(f"over the time limit of {limit:.0f} s in {said}")
            good, value = self.pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.stop()
            code = self.process.exitcode
            raise Failed(f"died in {_spoken(method, arguments)} (exit code {code})") from None
        if not good:
            self.stop()
            raise Failed(value)
        return value

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe, system: System, peer: Peer, parent: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    local = Local(system, peer)
    while True:
        while not pipe.poll(1.0):
            if os.getppid() != parent:
                return
        method, arguments = pipe.recv()
        try:
            pipe.send((True, local.call(method, *arguments)))
        except Failed as reason:
            pipe.send((False, str(reason)))


def _said(error: Exception) -> str:
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first[:160]}"


def _spoken(method: str, arguments: tuple) -> str:
    return "the set-up" if arguments in ((), (SETUP,)) else f"{method} of {arguments[0]} columns"


def race(
    system: System,
    peers: Iterable[Peer],
    blocks: Iterable[int] = (8, 32),
    seconds: float = 20.0,
    limit: float = 120.0,
    isolated: bool = True,
) -> list[Row]:
    """Measure every peer on a system; rounds of timings take `seconds`."""
    make = Remote if isolated else Local
    racing, rows = [], []
    for peer in peers:
        row = Row(peer.family, peer.name)
        rows.append(row)
        runner = make(system, peer)
        try:
            used = _qualify(row, runner, blocks, limit)
        except Failed as reason:
            row.note = f"{reason}; {row.note}".rstrip("; ")
            row.failed = 1 not in row.samples
            continue
        best = min(other.seconds(1) for other in rows if 1 in other.samples)
        if isolated and used > RETIRE and row.seconds(1) > 3.0 * best:
            runner.stop()
        else:
            racing.append((row, runner))
    _rounds(racing, seconds, limit)
    for _, runner in racing:
        runner.stop()
    return rows


def _qualify(row: Row, runner, blocks: Iterable[int], limit: float) -> int:
    """Set up, find the tolerance, measure each size once; the bytes in use."""
    row.samples[SETUP] = [runner.call("set_up", limit=limit)]
    rtol = _tune(row, runner, limit)
    largest = 1
    for columns in blocks:
        if columns * row.seconds(1) > limit * SHARE:
            continue
        rtol = _tighten(row, runner, columns, rtol, limit)
        largest = columns
    _, traceable, note, used = runner.call("facts", limit=limit)
    if traceable and row.seconds(1) < limit * SHARE / 4:
        sizes = {1, largest}
        row.memory = max(runner.call("memory", size, limit=2 * limit) for size in sizes)
    row.note = note
    if row.residual > RTOL:
        row.note = f"never met {RTOL:g}: residual {row.residual:.1e}"
    return used


def _tune(row: Row, runner, limit: float) -> float:
    """Loosen from the target while the single product stays below it; tighten where it is not."""
    rtol = _tighten(row, runner, 1, RTOL, limit)
    tunable = runner.call("facts", limit=limit)[0]
    start = time.perf_counter()
    while tunable and row.residual < RTOL / LOOSE and rtol < 0.1:
        if time.perf_counter() - start > limit:
            break
        runner.call("move", rtol / FIRM, limit=limit)
        seconds, residual, iterations = runner.call("attempt", 1, limit=limit)
        if residual > RTOL:
            runner.call("move", rtol, limit=limit)
            break
        rtol /= FIRM
        _note(row, 1, seconds, residual, iterations)
    return rtol


def _tighten(row: Row, runner, columns: int, rtol: float, limit: float) -> float:
    """Tighten until the true residual is met; a factorization has one attempt."""
    start, earlier = time.perf_counter(), np.inf
    for move in range(MOVES):
        if move:
            runner.call("move", rtol, limit=limit)
        seconds, residual, iterations = runner.call("attempt", columns, limit=limit)
        _note(row, columns, seconds, residual, iterations)
        tunable = runner.call("facts", limit=limit)[0]
        stuck = move > 4 and rtol < RTOL and residual > 0.9 * earlier
        stuck |= max(count or 0 for count in iterations) >= MAX_ITERATIONS * columns
        if residual <= RTOL or not tunable or stuck or time.perf_counter() - start > limit:
            break
        rtol *= FIRM
        earlier = residual
    return rtol


def _note(row: Row, columns: int, seconds: float, residual: float, iterations: list) -> None:
    row.samples[columns] = [seconds]
    row.residual = residual
    if columns == 1:
        row.iterations = "-" if None in iterations else "+".join(str(count) for count in iterations)


def _rounds(racing: list, seconds: float, limit: float) -> None:
    """Time set-ups and products in turn, each configuration within its share of the time."""
    share = seconds / max(len(racing), 1)
    spent = {row.label: dict.fromkeys(row.samples, 0.0) for row, _ in racing}
    first, busy = seconds > 0, True
    while busy:
        busy = False
        for row, runner in list(racing):
            try:
                busy |= _turn(row, runner, spent[row.label], share, first, limit)
            except Failed as reason:
                row.note = f"left the rounds: {reason}"
                racing.remove((row, runner))
        first = False


def _turn(row: Row, runner, spent: dict, share: float, first: bool, limit: float) -> bool:
    """Time each quantity of a configuration that its share has room for; whether there was one."""
    busy = False
    for key, samples in row.samples.items():
        fits = spent[key] + samples[-1] <= share / len(row.samples)
        if fits or (first and samples[-1] < QUICK):
            taken = runner.call("product", key, limit=2 * limit)
            if first:
                samples.clear()  # of the attempt, which also warmed up
            samples.append(taken)
            spent[key] += taken
            busy = True
    return busy

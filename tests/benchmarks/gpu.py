"""Benchmark Hessian products on a GPU against its host and against JAX on the same device.

    python -m tests.benchmarks.gpu [--problems NAME ...] [--device cuda|cpu] [--sizes full|small]
                                   [--skip-jax] [--skip-cpu] [--cpu-sizes N] [--again]
                                   [--output FOLDER] [--render FILE]

The problems are five-point and seven-point diffusion with up to 16.8 million cells, convection-
diffusion, and groundwater under terrain with 8.9 million cells. Each problem is measured by
separate processes (mfdeq on the device, JAX there, mfdeq on the host). If one fails, the others go
on, and its row says why. With eight cores or more, the host is measured on half of them while the
device works. After each measurement the figures are written to a file of JSON lines, from which
the table is made. Problems that are already in the file are skipped.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from .gpu_cases import CASES, Case

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "docs" / "benchmarks"
LIMITS = {"machine": 120, "device": 900, "jax": 240, "cpu": 900}  # seconds of a process
ROLES = ("device", "jax", "cpu")


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.part:
        part(options)
    elif options.render:
        render(options.render)
    else:
        run(options)


def run(options) -> None:
    """Measure what is not there yet, and write both files after each problem."""
    machine = child("machine", options, Path(), "")
    if machine["failed"]:
        raise SystemExit(f"--device {options.device}: {'; '.join(machine['failed'].values())}")
    options.output.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", machine["name"].lower()).strip("-")
    path = options.output / f"{name}{'' if options.sizes == 'full' else '-small'}.jsonl"
    records, lock = read(path), threading.Lock()

    def keep(record: dict, role: str, figures: dict) -> None:
        with lock:
            record[role] = figures
            records[record["problem"]] = record
            lines = (json.dumps(records[name]) + "\n" for name in CASES if name in records)
            path.write_text("".join(lines))
            render(path)
            why = "".join(f"; {what}: {said}" for what, said in figures["failed"].items())
            print(f"{record['problem']}, {role}: {figures.get('wall', 0):.0f} s{why}", flush=True)

    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(1) as host:
        later = []
        for problem in options.problems:
            if problem in records and not options.again and complete(records[problem]):
                print(f"{problem}: is there already", flush=True)
                continue
            folder = Path(scratch) / str(len(list(Path(scratch).iterdir())))
            folder.mkdir()
            later += measured(problem, options, machine, folder, keep, host)
        for future in later:
            future.result()
    print(path.with_suffix(".rst").read_text())


def complete(record: dict) -> bool:
    """Whether all have had their turn, and there is a product on the device."""
    return all(role in record for role in ROLES) and "product" in record["device"]


def read(path: Path) -> dict[str, dict]:
    """Records by their problem, in the order of the problems."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = {record["problem"]: record for record in map(json.loads, lines)}
    return {name: found[name] for name in CASES if name in found}


def render(path: Path) -> None:
    """Write the table beside its figures."""
    from .gpu_table import table

    path.with_suffix(".rst").write_text(table(list(read(path).values())))


def measured(problem: str, options, machine: dict, folder: Path, keep, host) -> list[Future]:
    """Run the processes of a problem; the host's, returned, may go on beside the next ones."""
    record = {
        "problem": problem,
        "sizes": options.sizes,
        "date": datetime.date.today().isoformat(),
        "commit": options.commit or commit(),
        "machine": machine,
    }
    keep(record, "device", child("device", options, folder, problem))
    skipped = {"jax": "not asked for"} if options.skip_jax else {}
    size = Case(problem, options.sizes).unknowns
    if options.skip_cpu:
        skipped["cpu"] = "not asked for"
    elif size > options.cpu_sizes:
        skipped["cpu"] = f"{size:,} unknowns are more than --cpu-sizes {options.cpu_sizes:,}"
    if "product" not in record["device"]:
        skipped |= dict.fromkeys(("jax", "cpu"), "there is nothing to hold it against")
    for role, why in skipped.items():
        keep(record, role, {"failed": {"all": why}})
    later = []
    if "cpu" not in skipped:
        later = [host.submit(lambda: keep(record, "cpu", child("cpu", options, folder, problem)))]
        if not apart(options):
            later[0].result()
    if "jax" not in skipped:
        keep(record, "jax", child("jax", options, folder, problem))
    return later


def apart(options) -> bool:
    """Whether device and host are measured at a time: each then has half of the cores."""
    return options.device == "cuda" and len(cores()) >= 8


def cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def child(role: str, options, folder: Path, problem: str) -> dict:
    """What a process of its own measures; of one that ends early, as far as it came."""
    with tempfile.TemporaryDirectory() as scratch:
        figures = Path(scratch) / "figures.json"
        command = [sys.executable, "-m", "tests.benchmarks.gpu", "--part", role]
        command += ["--device", options.device, "--sizes", options.sizes]
        command += ["--figures", str(figures), "--folder", str(folder)]
        command += ["--problems", problem] if problem else []
        # JAX takes most of a device's memory for itself otherwise.
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        limit = LIMITS[role]
        start = time.perf_counter()
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, timeout=limit, capture_output=True, text=True
            )
            last = (done.stderr.strip().splitlines() or [""])[-1]
            why = "" if done.returncode == 0 else f"ended with {done.returncode}: {last[:200]}"
        except subprocess.TimeoutExpired:
            why = f"stopped after {limit} s"
        found = json.loads(figures.read_text()) if figures.exists() else {"failed": {}}
        found["wall"] = time.perf_counter() - start
        if why:
            found["failed"]["process"] = why
        return found


def part(options) -> None:
    """The work of a child."""
    from .gpu_run import Device, Figures, measure

    if options.part in ROLES and apart(options):
        half = len(cores()) // 2
        os.sched_setaffinity(0, cores()[half:] if options.part == "cpu" else cores()[:half])
    figures = Figures(options.figures)
    if options.part == "machine":
        with figures.attempt("device"):
            figures.save(**machine_of(options.device))
        return
    case, host = Case(options.problems[0], options.sizes), options.part != "device"
    device = Device("cpu" if host else options.device)
    if options.part == "jax":
        from . import gpu_jax

        wanted = "gpu" if options.device == "cuda" else "cpu"
        with figures.attempt("JAX"):
            gpu_jax.measure(case, device, options.folder, figures, wanted)
    else:
        with figures.attempt("run"):
            measure(case, device, options.part, options.folder, figures)


def machine_of(device: str) -> dict:
    """Names and versions."""
    import numpy
    import scipy

    import mfdeq

    found = {
        "host": processor(),
        "cores": len(cores()),
        "threads": os.environ.get("OMP_NUM_THREADS", "not limited"),
        "versions": f"mfdeq {mfdeq.__version__}, numpy {numpy.__version__}, scipy "
        f"{scipy.__version__}",
    }
    if device == "cpu":
        return found | {"name": processor(), "driver": "none", "cuda": "none"}
    try:
        import cupy

        there = cupy.is_available()
    except ImportError:
        there = False
    if not there:
        raise RuntimeError("no device, or no cupy: install the extra cuda12 or cuda13")
    runtime = cupy.cuda.runtime
    name = runtime.getDeviceProperties(0)["name"]
    found["versions"] += f", cupy {cupy.__version__}"
    return found | {
        "name": name.decode() if isinstance(name, bytes) else name,
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": f"{runtime.runtimeGetVersion()}, driver {runtime.driverGetVersion()}",
    }


def processor() -> str:
    """The model of the host's processor."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def said(*command: str) -> str:
    """The first line that a program prints."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return (done.stdout.splitlines() or ["unknown"])[0]


def commit() -> str:
    return said("git", "describe", "--always", "--dirty")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--sizes", choices=("full", "small"), default="full")
    parser.add_argument("--skip-jax", action="store_true")
    parser.add_argument("--skip-cpu", action="store_true", help="the library on the host")
    parser.add_argument(
        "--cpu-sizes", type=int, default=20_000_000, help="unknowns up to which the host takes part"
    )
    parser.add_argument("--again", action="store_true", help="what is there already, too")
    parser.add_argument("--render", type=Path, help="the table of an existing .jsonl alone")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of tables and figures: by default docs/benchmarks, of small sizes or the host "
        "this one",
    )
    parser.add_argument("--commit", help="what was measured, where git does not say")
    for hidden, kind in (("--part", str), ("--figures", Path), ("--folder", Path)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.output is None:
        measured = options.device == "cuda" and options.sizes == "full"
        options.output = TABLES if measured else Path.cwd()
    return options


if __name__ == "__main__":
    main()

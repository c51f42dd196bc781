"""Many equilibria with one parameter vector, beside what an expert writes and JAX.

    python -m tests.benchmarks.many [experiments ...] [--small] [--repeats 5]

Each row gives the milliseconds of this library and of the reference, their ratio and the ratio that
is to be reached. The jobs of a row are run in turns in this process, on one core.
"""

from __future__ import annotations

import argparse
import importlib

import threadpoolctl

TABLES = {
    "experiments": "experiments: many sources over one theta",
    "trajectories": "trajectories: implicit steps of the heat equation",
    "batches": "batches: implicit layers from JAX",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="by default all")
    parser.add_argument("--small", action="store_true", help="sizes for a quick look")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    threadpoolctl.threadpool_limits(1)
    for table in arguments.tables or TABLES:
        print(TABLES[table])
        print(f"  {'':44} {'ms':>10} {'ms':>10} {'ratio':>7}")
        module = importlib.import_module(f".{table}", __package__)
        for comparison in module.comparisons(arguments.small):
            print(comparison.run(arguments.repeats), flush=True)


if __name__ == "__main__":
    main()

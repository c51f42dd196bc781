"""The example of docs/petsc.rst runs as it is written."""

import textwrap
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("petsc4py")

from support.petsc_problems import gathered, mat_of, vec_of

import mfdeq

DOCS = Path(__file__).parents[2] / "docs" / "petsc.rst"


def test_example_of_the_docs_runs():
    page = DOCS.read_text("utf-8")
    block = page[page.index("    import sys") : page.index("``eq`` has what")]
    model, use = textwrap.dedent(block).split("eq = mfdeq.petsc.solve")
    scope = {}
    exec(model.replace("petsc4py.init(sys.argv)", ""), scope)
    n, p = 30, 20
    scope |= {
        "L": mat_of(2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)),
        "W": mat_of(np.eye(n)[:, :p]),
        "theta": vec_of(np.full(p, 0.3)),
        "observe": np.arange(0, n, 2),
        "data": np.ones(n // 2),
    }
    exec("eq = mfdeq.petsc.solve" + use, scope)
    assert scope["g"].getSize() == p
    assert np.linalg.norm(gathered(scope["g"])) > 0
    assert scope["H"].getSize() == (p, p)
    found = scope["Diffusion"](scope["L"], scope["W"])
    assert mfdeq.verify(found, scope["theta"], scope["loss"])

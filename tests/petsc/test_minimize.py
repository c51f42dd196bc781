"""A few steps of a minimization are those of one machine, on any number of ranks."""

import numpy as np
import pytest

pytest.importorskip("petsc4py")

from support.petsc_problems import LOSS, THETA, Cubic, Twin, vec_of

import mfdeq


def params_after_steps(model, theta, accuracy, **options):
    functional = mfdeq.ReducedFunctional(model, LOSS, accuracy=accuracy)
    with pytest.raises(mfdeq.ConvergenceError, match="max_iterations") as stopped:
        mfdeq.minimize(functional, theta, max_iterations=3, **options)
    return stopped.value.best.params


@pytest.mark.parametrize(
    ("accuracy", "gtol"), [(None, 1e-8), (None, 1e-5), (1e-3, 1e-8), (1e-5, 1e-8)]
)
@pytest.mark.parametrize("bounds", [None, (-2.0, 2.0)])
def test_few_steps_are_those_of_one_machine_to_the_accuracy_asked_for(accuracy, gtol, bounds):
    options = {"gtol": gtol, "bounds": bounds}
    found = params_after_steps(Cubic(), vec_of(THETA), accuracy, **options).gathered()
    expected = params_after_steps(Twin(), THETA, accuracy, **options)
    asked = gtol if accuracy is None else accuracy
    assert np.linalg.norm(found - expected) <= asked * np.linalg.norm(expected)

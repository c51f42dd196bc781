"""Options that PETSc does not read are named in a warning."""

import warnings

import pytest

pytest.importorskip("petsc4py")

from support.petsc_problems import LOSS, THETA, Cubic, vec_of

import mfdeq
import mfdeq.petsc

WELL_NAMED = [
    {"pc_type": "jacobi", "ksp_max_it": 100, "ksp_gmres_restart": 40},
    {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"},
    {"pc_type": "bjacobi", "sub_pc_type": "ilu", "sub_pc_factor_levels": 1},
    {"pc_type": "gamg", "mg_levels_ksp_max_it": 3, "mg_levels_pc_type": "jacobi"},
]


def solve(options, **settings):
    solver = mfdeq.petsc.KSP("named_", options)
    return mfdeq.petsc.solve(Cubic(), vec_of(THETA), solver=solver, **settings)


def hessian():
    return mfdeq.petsc.solve(Cubic(), vec_of(THETA)).hessian(LOSS)


@pytest.mark.parametrize("options", WELL_NAMED)
def test_options_that_are_read_give_no_warning(options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", mfdeq.petsc.OptionsWarning)
        solve(options).gradient(LOSS)


@pytest.mark.parametrize(
    ("use", "name"),
    [
        (lambda options: solve(options), "pc_typ"),
        (lambda options: solve({"pc_type": "jacobi", **options}), "ksp_gmres_restarts"),
        (lambda options: solve(options, method="snes"), "snes_typ"),
        (
            lambda options: mfdeq.petsc.eigsh(hessian(), 2, prefix="named_", options=options),
            "eps_nvc",
        ),
        (
            lambda options: mfdeq.petsc.tao(
                mfdeq.ReducedFunctional(Cubic(), LOSS),
                vec_of(THETA),
                prefix="named_",
                options=options,
            ),
            "tao_typ",
        ),
    ],
)
def test_mistyped_option_is_named_in_a_warning(use, name):
    with pytest.warns(mfdeq.petsc.OptionsWarning, match=f"reads no option -named_{name}:"):
        use({name: "20"})

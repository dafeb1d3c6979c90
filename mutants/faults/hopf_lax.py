"""Faults in the exact solution of the Hamilton-Jacobi equation."""

from __future__ import annotations

from mutants.fault import Fault

HOPF_LAX = ("flow/test_flow_hopf_lax.py",)

FAULTS = (
    Fault(
        "the sign of the displacement along a characteristic",
        "flow/hopf_lax_potential.py",
        "t, z - y, request)",
        "t, y - z, request)",
        HOPF_LAX,
    ),
    Fault(
        "1/2 missing in the value of a characteristic",
        "flow/hopf_lax_potential.py",
        "(velocity * displacement).sum(-1) - t / 2 * square",
        "(velocity * displacement).sum(-1) - t * square",
        HOPF_LAX,
    ),
    Fault(
        "the Hessian of the start, not carried",
        "flow/hopf_lax_potential.py",
        "torch.linalg.solve(eye + t[..., None, None] * initial.hessian, initial.hessian)",
        "initial.hessian + 0 * eye",
        HOPF_LAX,
    ),
    Fault(
        "the Hessian carried backwards",
        "flow/hopf_lax_potential.py",
        "torch.linalg.solve(eye + t[",
        "torch.linalg.solve(eye - t[",
        HOPF_LAX,
    ),
    Fault(
        "the sign of the change of the velocity",
        "flow/hopf_lax_potential.py",
        "gradient_time_derivative=-along if",
        "gradient_time_derivative=along if",
        HOPF_LAX,
    ),
)

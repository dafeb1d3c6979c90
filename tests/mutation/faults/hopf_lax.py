"""Faults in the exact solution of the Hamilton-Jacobi equation."""

from __future__ import annotations

from tests.mutation.fault import Fault

HOPF_LAX = ("latentflow/flow/test_hopf_lax_potential.py", "latentflow/flow/test_hopf_lax.py")
FLOW = ("latentflow/flow/test_hopf_lax.py",)

FAULTS = (
    Fault(
        "the sign of the displacement along a characteristic",
        "latentflow/flow/hopf_lax.py",
        "t, z - y, request)",
        "t, y - z, request)",
        HOPF_LAX,
    ),
    Fault(
        "1/2 missing in the value of a characteristic",
        "latentflow/flow/hopf_lax.py",
        "(velocity * displacement).sum(-1) - t / 2 * square",
        "(velocity * displacement).sum(-1) - t * square",
        HOPF_LAX,
    ),
    Fault(
        "the Hessian of the start, not carried",
        "latentflow/flow/hopf_lax.py",
        "torch.linalg.solve(eye + t[..., None, None] * initial.hessian, initial.hessian)",
        "initial.hessian + 0 * eye",
        HOPF_LAX,
    ),
    Fault(
        "the Hessian carried backwards",
        "latentflow/flow/hopf_lax.py",
        "torch.linalg.solve(eye + t[",
        "torch.linalg.solve(eye - t[",
        HOPF_LAX,
    ),
    Fault(
        "the sign of the change of the velocity",
        "latentflow/flow/hopf_lax.py",
        "gradient_time_derivative=lambda: -along,",
        "gradient_time_derivative=lambda: along,",
        HOPF_LAX,
    ),
    Fault(
        "a characteristic from the first time in place of time 0",
        "latentflow/flow/hopf_lax.py",
        "elapsed = (times - times[0]).to(z0)",
        "elapsed = times.to(z0)",
        FLOW,
    ),
    Fault(
        "log_det counted from time 0",
        "latentflow/flow/hopf_lax.py",
        "total = found.log_det - found.log_det[0]",
        "total = found.log_det",
        FLOW,
    ),
    Fault(
        "a shock forgotten after its step",
        "latentflow/flow/hopf_lax.py",
        "folded[:-1] | folded[1:]",
        "folded[1:]",
        FLOW,
    ),
    Fault(
        "the weights of a quadrature without its interval",
        "latentflow/flow/hopf_lax.py",
        "total.append((half * weight).to(y) * rate)",
        "total.append((0 * half + weight).to(y) * rate)",
        FLOW,
    ),
    Fault(
        "the slope of a determinant without the time",
        "latentflow/flow/hopf_lax.py",
        "weights = (slope * _broadcast_times(times, values.ndim) / factors).sum(0)",
        "weights = (slope / factors).sum(0)",
        FLOW,
    ),
)

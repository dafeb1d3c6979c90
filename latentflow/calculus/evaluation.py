r"""Answer a request for derivatives by the field's own rule, or by automatic differentiation."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

from torch import Tensor

from latentflow.calculus.arguments import Field, Time, check_points, expand_time
from latentflow.calculus.autodiff import autodiff_jet
from latentflow.calculus.jets import Jet, JetRequest
from latentflow.calculus.precision import outside_autocast


@runtime_checkable
class SupportsJet(Protocol):
    """A field that knows its own derivatives."""

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Return the jet at ``z`` of shape ``(*batch, dim)`` and ``t`` of shape ``(*batch,)``."""


@outside_autocast
def evaluate_jet(u: Field, z: Tensor, t: Time, request: JetRequest) -> Jet:
    """Answer a request by the field's own rule where it has one, else by automatic differentiation.

    Under ``torch.autocast`` the pass runs outside it, in float32 where ``z`` is of a lower precision: second
    derivatives lose too much in bfloat16. Every field of the jet then is float32 (float64 where ``z`` is).

    Args:
        u: The field.
        z: The points, of shape ``(*batch, dim)``.
        t: The times: a number, ``()`` or ``(*batch,)``.
        request: The second derivatives wanted.

    Returns:
        The jet.

    Raises:
        TypeError: If ``z`` is not a floating-point tensor, or ``u`` does not return a tensor.
        ValueError: If a shape does not fit.
    """
    check_points(z)
    time = expand_time(t, z)
    if request.probes is not None and request.probes.dtype != z.dtype:
        request = replace(request, probes=request.probes.to(z.dtype))
    if isinstance(u, SupportsJet):
        return u.jet_rule(z, time, request)
    return autodiff_jet(u, z, time, request)

"""The planted faults, by theme."""

from __future__ import annotations

from tests.mutation.fault import Fault
from tests.mutation.faults import (
    calculus,
    explorer,
    flow,
    hopf_lax,
    hub,
    metrics,
    models,
    pde,
    potentials,
    reproduce,
    transport,
)

FAULTS: tuple[Fault, ...] = tuple(
    fault
    for theme in (calculus, potentials, flow, hopf_lax, pde, models, transport, reproduce, hub, metrics, explorer)
    for fault in theme.FAULTS
)

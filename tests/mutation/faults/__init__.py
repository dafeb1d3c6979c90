"""The faults, room by room."""

from __future__ import annotations

from tests.mutation.fault import Fault
from tests.mutation.faults import calculus, flow, hopf_lax, models, pde, potentials, transport

FAULTS: tuple[Fault, ...] = tuple(
    fault for room in (calculus, potentials, flow, hopf_lax, pde, models, transport) for fault in room.FAULTS
)

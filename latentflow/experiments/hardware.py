"""Where and how to compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_fabric import Fabric

STRATEGIES = {"auto": "auto", "ddp": "ddp_find_unused_parameters_true"}  # a batch uses one of the potentials only


@dataclass(frozen=True)
class Hardware:
    """Where and how to compute.

    Attributes:
        device: What to train on; ``auto`` takes an accelerator where there is one.
        devices: How many of them; each draws batches of its own.
        strategy: How several devices work together.
        precision: Precision of encoder and decoder; the dynamics are always computed in 32 bits.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Literal["32", "bf16-mixed"] = "bf16-mixed"

    def launch(self) -> Fabric:
        """Start the processes, one for each device, and give the handle to them."""
        fabric = Fabric(
            accelerator=self.device,
            strategy=STRATEGIES[self.strategy],
            devices=self.devices,
            precision=self.precision,
        )
        fabric.launch()
        return fabric

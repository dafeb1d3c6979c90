"""Where and how to compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from lightning_fabric import Fabric

STRATEGIES = {"auto": "auto", "ddp": "ddp_find_unused_parameters_true"}  # a batch uses one of the potentials only


@dataclass(frozen=True)
class Hardware:
    """Where and how to compute.

    Attributes:
        device: What to train on; ``auto`` takes an accelerator where there is one.
        devices: How many of them; each draws batches of its own.
        strategy: How several devices work together.
        precision: Precision of encoder and decoder; auto is bf16-mixed where the processor computes in it, else 32.
            The dynamics are always computed in 32 bits.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Literal["auto", "32", "bf16-mixed"] = "auto"

    def launch(self) -> Fabric:
        """Start the processes, one for each device, and give the handle to them."""
        fabric = Fabric(
            accelerator=self.device,
            strategy=STRATEGIES[self.strategy],
            devices=self.devices,
            precision=self.chosen_precision(),
        )
        fabric.launch()
        return fabric

    def chosen_precision(self) -> Literal["32", "bf16-mixed"]:
        """Give the precision, chosen if it was left open: bfloat16 in software takes a hundred times as long."""
        if self.precision != "auto":
            return self.precision
        return "bf16-mixed" if _computes_in_bfloat16(self.device) else "32"


def _computes_in_bfloat16(device: str) -> bool:
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "mps" or (device == "auto" and torch.backends.mps.is_available()):
        return False
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older versions of torch
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))

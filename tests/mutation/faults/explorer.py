"""Faults of the explorer of a run."""

from __future__ import annotations

from tests.mutation.fault import Fault

EXPLORER = ("experiments/test_explorer.py",)
GRID, RENDERING, PAGE, SERVING = (
    f"latentflow_experiments/explorer/{name}.py" for name in ("grid", "rendering", "page", "serving")
)

FAULTS = (
    Fault(
        "explorer: flows in the order of the bank",
        GRID,
        "Switched(self.order[j], self.order[k], restart)",
        "Switched(j, k, restart)",
        EXPLORER,
    ),
    Fault(
        "explorer: pictures of the next path",
        RENDERING,
        "places[n * (grid.steps + 1) : (n + 1) * (grid.steps + 1)]",
        "places[n * grid.steps : (n + 1) * grid.steps + 1]",
        EXPLORER,
    ),
    Fault(
        "explorer: a density again after a fold",
        RENDERING,
        "lost = torch.where(folded[:, 0], math.nan, 0.0).cumsum(0)",
        "lost = torch.where(folded[:, 0], math.nan, 0.0)",
        EXPLORER,
    ),
    Fault(
        "explorer: the log-density of a switch without its first half",
        RENDERING,
        "density = log_density[-1]",
        "density = log_density[0]",
        EXPLORER,
    ),
    Fault(
        "explorer: a page above its limit",
        PAGE,
        "                        break\n",
        "                        pass\n",
        EXPLORER,
    ),
    Fault(
        "explorer: names that end a script",
        PAGE,
        'return text.replace("<", "\\\\u003c").replace(">", "\\\\u003e").replace("&", "\\\\u0026")',
        "return text",
        EXPLORER,
    ),
    Fault(
        "explorer: uploads of any format",
        SERVING,
        "Image.open(data, formats=FORMATS)",
        "Image.open(data)",
        EXPLORER,
    ),
)

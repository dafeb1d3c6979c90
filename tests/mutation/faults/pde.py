"""Faults in residuals."""

from __future__ import annotations

from tests.mutation.fault import Fault

PDE = ("latentflow/pde/test_pde_solutions.py", "latentflow/pde/test_pde_covariance.py")
LOSS = ("latentflow/pde/test_pde_loss.py",)
FOKKER = ("latentflow/pde/test_pde_fokker_planck.py",)
HEAT = ("latentflow/pde/test_pde_heat_wave.py",)
VISCOUS = ("latentflow/pde/test_pde_viscous.py",)
COLLOCATION = ("latentflow/pde/test_pde_collocation.py",)

FAULTS = (
    Fault(
        "1/2 missing in Hamilton-Jacobi",
        "latentflow/pde/equations.py",
        "residual = jet.time_derivative + jet.gradient.square().sum(-1) / 2",
        "residual = jet.time_derivative + jet.gradient.square().sum(-1)",
        PDE,
    ),
    Fault(
        "the squared gradient averaged over coordinates",
        "latentflow/pde/equations.py",
        "residual = jet.time_derivative + jet.gradient.square().sum(-1) / 2",
        "residual = jet.time_derivative + jet.gradient.square().mean(-1) / 2",
        PDE,
    ),
    Fault(
        "the mean of the squared gradient over the batch",
        "latentflow/pde/equations.py",
        "residual = jet.time_derivative + jet.gradient.square().sum(-1) / 2",
        "residual = jet.time_derivative + jet.gradient.square().sum(-1).mean() / 2",
        PDE,
    ),
    Fault(
        "the sign of the force",
        "latentflow/pde/equations.py",
        "else residual - self.force(z, t)",
        "else residual + self.force(z, t)",
        PDE,
    ),
    Fault(
        "a force that pushes up", "latentflow/pde/equations.py", "return -root.square()", "return root.square()", LOSS
    ),
    Fault(
        "the penalty of the force as a reward",
        "latentflow/pde/equations.py",
        "self.force_penalty * self.force(z, t).abs()",
        "self.force_penalty * self.force(z, t)",
        LOSS,
    ),
    Fault(
        "the initial condition at time one",
        "latentflow_experiments/song2023.py",
        "return gradient(u, z, 0.0).square().sum(-1)",
        "return gradient(u, z, 1.0).square().sum(-1)",
        ("experiments/test_song2023.py",),
    ),
    Fault(
        "the sign of heat",
        "latentflow/pde/equations.py",
        "time_derivative - self.diffusivity",
        "time_derivative + self.diffusivity",
        HEAT,
    ),
    Fault(
        "half the diffusivity", "latentflow/pde/equations.py", "self.diffusivity() *", "self.diffusivity() / 2 *", HEAT
    ),
    Fault("c for c^2", "latentflow/pde/equations.py", "self.speed() ** 2", "self.speed()", HEAT),
    Fault(
        "u_t for u_tt",
        "latentflow/pde/equations.py",
        "acceleration = jet.second_time_derivative",
        "acceleration = jet.time_derivative",
        HEAT,
    ),
    Fault(
        "the sign of viscosity", "latentflow/pde/equations.py", "kinetic - self.visc", "kinetic + self.visc", VISCOUS
    ),
    Fault(
        "twice the viscosity",
        "latentflow/pde/equations.py",
        "- self.viscosity() *",
        "- 2 * self.viscosity() *",
        VISCOUS,
    ),
    Fault(
        "1/2 missing in viscous Hamilton-Jacobi",
        "latentflow/pde/equations.py",
        "kinetic = jet.gradient.square().sum(-1) / 2",
        "kinetic = jet.gradient.square().sum(-1)",
        VISCOUS,
    ),
    Fault(
        "1/2 too many in the Fokker-Planck potential",
        "latentflow/pde/equations.py",
        "residual = jet.time_derivative + jet.gradient.square().sum(-1) - spread",
        "residual = jet.time_derivative + jet.gradient.square().sum(-1) / 2 - spread",
        FOKKER,
    ),
    Fault(
        "the drift of the other sign in the Fokker-Planck potential",
        "latentflow/pde/equations.py",
        "return residual - phi.time_derivative - (phi.gradient * jet.gradient).sum(-1)",
        "return residual - phi.time_derivative + (phi.gradient * jet.gradient).sum(-1)",
        FOKKER,
    ),
    Fault(
        "a drift that changes with time, without its time derivative",
        "latentflow/pde/equations.py",
        "return residual - phi.time_derivative - (phi",
        "return residual - (phi",
        FOKKER,
    ),
    Fault(
        "D for 2 D in the Fokker-Planck potential",
        "latentflow/pde/equations.py",
        "spread = self.diffusion() * jet.laplacian",
        "spread = self.diffusion() / 2 * jet.laplacian",
        FOKKER,
    ),
    Fault(
        "|grad l|^2 missing",
        "latentflow/pde/equations.py",
        "spread = jet.laplacian + jet.gradient.square().sum(-1)",
        "spread = jet.laplacian",
        FOKKER,
    ),
    Fault(
        "div b missing in the log form",
        "latentflow/pde/equations.py",
        "return residual + phi.laplacian + (phi.gradient * jet.gradient).sum(-1)",
        "return residual + (phi.gradient * jet.gradient).sum(-1)",
        FOKKER,
    ),
    Fault(
        "div b missing in the density form",
        "latentflow/pde/equations.py",
        "return residual + (phi.gradient * jet.gradient).sum(-1) + growth",
        "return residual + (phi.gradient * jet.gradient).sum(-1)",
        FOKKER,
    ),
    Fault(
        "the growth of a density not proportional to it",
        "latentflow/pde/equations.py",
        "growth = jet.value * phi.laplacian",
        "growth = phi.laplacian",
        FOKKER,
    ),
    Fault(
        "continuity without the divergence",
        "latentflow/pde/equations.py",
        "return jet.time_derivative + u.laplacian + (u.gradient",
        "return jet.time_derivative + (u.gradient",
        FOKKER,
    ),
    Fault(
        "the hinge missing",
        "latentflow/pde/equations.py",
        "return torch.relu(jet.time_derivative + jet.gradient.square().sum(-1) / 2)",
        "return jet.time_derivative + jet.gradient.square().sum(-1) / 2",
        ("latentflow/pde/test_pde_theorems.py",),
    ),
    Fault(
        "the hinge on the other side",
        "latentflow/pde/equations.py",
        "return torch.relu(jet.time_derivative + jet.gradient.square().sum(-1) / 2)",
        "return -torch.relu(-jet.time_derivative - jet.gradient.square().sum(-1) / 2)",
        ("latentflow/pde/test_pde_theorems.py",),
    ),
    Fault(
        "causal weights that are not cumulative",
        "latentflow/pde/residual.py",
        "(means.cumsum(0) - means)",
        "(means.roll(1))",
        COLLOCATION,
    ),
    Fault(
        "a bin of causal weights that counts itself",
        "latentflow/pde/residual.py",
        "(means.cumsum(0) - means)",
        "means.cumsum(0)",
        COLLOCATION,
    ),
    Fault(
        "sums for means in causal weights",
        "latentflow/pde/residual.py",
        "sums / counts.clamp(min=1)",
        "sums",
        COLLOCATION,
    ),
    Fault(
        "causal weights that carry a gradient",
        "latentflow/pde/residual.py",
        "square, time = squared_residual.detach().flatten(), t.detach().flatten()",
        "square, time = squared_residual.flatten(), t.detach().flatten()",
        COLLOCATION,
    ),
    Fault(
        "the point after the step for the paper's",
        "latentflow_experiments/song2023.py",
        "z = trajectory.z[:-1]\n        return z, trajectory",
        "z = trajectory.z[1:]\n        return z, trajectory",
        ("experiments/test_song2023.py",),
    ),
)

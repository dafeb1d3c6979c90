"""PoFlow: potential flows that follow a wave equation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from latentflow import FlowVAE, Trajectory, WaveResidual, gradient
from latentflow.calculus import PositiveParameter
from latentflow.vae.bounds import estimate_divergence, reparameterized_sample
from latentflow_experiments.data import SequenceDataset
from latentflow_experiments.methods.flow import build_flow_vae, propose
from latentflow_experiments.methods.method import Choice, FlowMotion, Method, ModelSettings
from latentflow_experiments.methods.proposals import Proposal


class PoFlow(nn.Module):
    r"""A VAE of single frames, and flows that lead from the latent of the first to those of the others.

    Of a sequence of transformation k, one time :math:`t \in 0, \dots, T - 1` is drawn. From a sample :math:`z_0` of
    :math:`q(z | x_0)` the latents flow by :math:`\hat z_{n+1} = \hat z_n + \nabla u_k(\hat z_n, n)`. Training minimizes

    .. math::
        & -\log p(x_0 | z_0) + KL(q(z | x_0) \| p) - \log p(x_{t+1} | \hat z_{t+1}) + KL(q(z | x_{t+1}) \| p) \\
        & + |z_t - \hat z_t|^2 + |z_{t+1} - z_t - (\hat z_{t+1} - \hat z_t)|^2
          + |\nabla u_k(z_0, -1)|^2 + \frac1T \sum_n (\partial_{tt} u_k - c_k^2 \Delta u_k)^2

    with samples :math:`z_t, z_{t+1}` of :math:`q(z | x_t), q(z | x_{t+1})` and learnable speeds :math:`c_k`, all
    weights 1 and squared norms summed over the latent coordinates. The wave residual is the true one: a second time
    derivative less a Laplacian, for each sample, at random times on the path.

    Two things differ from the released code. Its term :math:`-|J_{\mathrm{Dec}} \nabla u|^2`, which rewards change in
    the picture, is unbounded below and left out. The initial condition stands at the time before the first step: there
    the step from time 0 does not move, here it is not made.

    Args:
        model: Encoder, decoder, likelihood, prior and potentials; its bound and its residual are not used.

    References:
        Y. Song, T. A. Keller, N. Sebe and M. Welling, Latent Traversals in Generative Models as Potential Flows, ICML
        2023.
    """

    def __init__(self, model: FlowVAE) -> None:
        super().__init__()
        self.model = model
        self.residuals = nn.ModuleList(WaveResidual(PositiveParameter(1.0)) for _ in range(len(model.bank)))

    def forward(self, frames: Tensor, k: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Compute the terms of the loss.

        Args:
            frames: Sequences, of shape ``(batch, T+1, channels, height, width)``, in [0, 1].
            k: The transformation of each, int64 of shape ``(batch,)``.
            generator: The source of randomness, or None for torch's global one.

        Returns:
            The terms by their names, each of shape ``()``, in nats; ``total`` is what training minimizes.
        """
        steps = frames.shape[1] - 1
        t = int(torch.randint(steps, (), generator=generator, device=frames.device))
        posteriors = [self.model.encode(frames[:, n]) for n in (0, t, t + 1)]
        z0, now, after = (reparameterized_sample(posterior, generator) for posterior in posteriors)
        with torch.autocast(z0.device.type, enabled=False):
            trajectory = self.model.flow_of(k).rollout(z0, steps, log_det=None)
            residual = self._wave(trajectory, k, generator)
            initial = gradient(self.model.bank.select(k), z0, -1.0).square().sum(-1).mean()
            kl = sum(
                (estimate_divergence(posteriors[n], self.model.prior(k=k), z).mean() for n, z in ((0, z0), (2, after))),
                z0.new_zeros(()),
            )
            apart = (now if t else z0) - trajectory.z[t]
            here = apart.square().sum(-1).mean()
            change = (after - trajectory.z[t + 1] - apart).square().sum(-1).mean()
        pictures = self.model.decode(torch.stack([z0, trajectory.z[t + 1]]))
        reconstruction = -pictures.log_prob(frames[:, [0, t + 1]].transpose(0, 1)).sum(0).mean()
        terms = {
            "reconstruction": reconstruction,
            "kl": kl,
            "position": here,
            "displacement": change,
            "initial_condition": initial,
            "residual": residual,
        }
        return {"total": torch.stack(list(terms.values())).sum(), **terms}

    def _wave(self, trajectory: Trajectory, k: Tensor, generator: torch.Generator | None) -> Tensor:
        """Average the squared residual, of each sequence with the speed of its own transformation."""
        fields = self.model.bank.select(k)
        losses = [
            self.residuals[kind].loss(fields, trajectory, generator, weights=(k == kind).to(trajectory.z))
            for kind in sorted(set(k.tolist()))
        ]
        return torch.stack(losses).sum()


class PoFlowMethod(Method[PoFlow]):
    """PoFlow, whose flows move the latents."""

    name = "poflow"

    def build(self, settings: ModelSettings, data: SequenceDataset) -> PoFlow:
        """Build the model around a flow-factorized VAE with a normal prior."""
        plain = replace(settings, prior="gaussian", pde="none", bound="joint", supervision="labels")
        return PoFlow(build_flow_vae(plain, data))

    def reads_labels(self, settings: ModelSettings) -> bool:
        """Return True."""
        return True

    def motion(self, model: PoFlow, choice: Choice) -> FlowMotion:
        """Return the flows."""
        return self.flows(model, choice)

    def flows(self, model: PoFlow, choice: Choice) -> FlowMotion:
        """Return the flows, in the order of the transformations."""
        return FlowMotion(model.model, tuple(range(len(model.model.bank))))

    def proposals(self, model: PoFlow, choice: Choice) -> dict[str, Callable[[int], Proposal]]:
        """Return the flow, and the posterior of each frame."""
        return propose(self.flows(model, choice))


METHODS = (PoFlowMethod(),)

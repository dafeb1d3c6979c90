"""The variational autoencoder whose latents flow along potentials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentflow.calculus import Field, check_count
from latentflow.flow import Path, PotentialFlow, Volume
from latentflow.pde import AlongPath, Collocation, PDEResidual
from latentflow.potentials import PotentialBank
from latentflow.priors import Prior
from latentflow.vae.bounds import Assignment, Bound, Dynamics, Enumerated, Known, MarginalBound, reparameterised_sample
from latentflow.vae.label_posterior import LabelPosterior
from latentflow.vae.networks import BernoulliLikelihood, Likelihood


@dataclass(frozen=True)
class Objective:
    r"""Every term of the objective, averaged over the batch, in nats unless said otherwise.

    Attributes:
        total: What training minimises, of shape ``()``: reconstruction + kl + label_kl + collapse + the
            weighted PDE terms.
        reconstruction: :math:`-\sum_t E \log p(x_t | z_t)`, of shape ``()``; an unbiased estimate where not all frames
            are decoded.
        kl: :math:`\sum_t E[\log q_t(z_t) - \log p_t(z_t)]`, as the bound computes it, of shape ``()``.
        label_kl: :math:`KL(q(k | x_0, \dots, x_T) \| p(k))`, of shape ``()``; where labels are given, the cross-entropy
            :math:`-\log q(k | x_0, \dots, x_T)` of the label posterior if there is one, else zero.
        collapse: The weighted penalty against the collapse of the label posterior, of shape ``()``; zero with labels.
        residual: The mean squared residual of the PDE, with its penalty, of shape ``()``.
        initial_condition: The mean of :math:`|\nabla u(z_0, 0)|^2`, of shape ``()``; zero where its weight is zero.
        reconstruction_per_time: The summands of ``reconstruction``, of shape ``(T+1,)``; where not all are decoded,
            from those that were.
        kl_per_time: The summands of ``kl``, of shape ``(T+1,)``.
        action: The mean of :math:`\int |\nabla u|^2 dt` along the path, of shape ``()``, in squared lengths per time.
        folded: The share of samples with a step that folds, of shape ``()``.
    """

    total: Tensor
    reconstruction: Tensor
    kl: Tensor
    label_kl: Tensor
    collapse: Tensor
    residual: Tensor
    initial_condition: Tensor
    reconstruction_per_time: Tensor
    kl_per_time: Tensor
    action: Tensor
    folded: Tensor

    @property
    def bound(self) -> Tensor:
        r"""The composite bound :math:`\sum_t \mathcal{L}_t \le \sum_t \log p_t(x_t)`, of shape ``()``."""
        return -(self.reconstruction + self.kl + self.label_kl)


@dataclass(frozen=True)
class Explanation:
    r"""The terms of every sequence, before they are averaged.

    Attributes:
        reconstruction: :math:`-\log p(x_t | z_t)`, of shape ``(T+1, *batch)``, in nats.
        kl: The divergence at each time, of shape ``(T+1, *batch)``, in nats.
        residual: The mean squared residual of the PDE, of shape ``()``.
        initial_condition: The mean of the initial condition, of shape ``()``.
        action: :math:`\int |\nabla u|^2 dt` along the path, of shape ``(*batch,)``.
        folded: Whether a step folds, 0 or 1, of shape ``(*batch,)``.
    """

    reconstruction: Tensor
    kl: Tensor
    residual: Tensor
    initial_condition: Tensor
    action: Tensor
    folded: Tensor


def reconstruct(
    decode: Callable[[Tensor], Distribution],
    z: Tensor,
    x: Tensor,
    count: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Compute the negative log-likelihood of frames, from all of them or from some that are drawn by lot.

    Every sequence draws its own frames without replacement, and they are scaled up, so that the sum over the times is
    unbiased.

    Args:
        decode: Maps latents to the distribution of images.
        z: The latents, of shape ``(T+1, *batch, dim)``.
        x: The frames, of a shape that broadcasts to ``(T+1, *batch, channels, height, width)``.
        count: How many frames of each sequence to decode; None for all.
        generator: The source of randomness, or None for torch's global one.

    Returns:
        The negative log-likelihood, of shape ``(T+1, *batch)``, in nats; zero where a frame was not drawn.
    """
    if count is None or count >= len(z):
        return -decode(z).log_prob(x)
    lots = torch.rand(z.shape[:-1], generator=generator, device=z.device)  # of every sequence its own
    chosen = lots.argsort(0)[:count]
    some_x = x.expand(*z.shape[:-1], *x.shape[-3:]).take_along_dim(chosen[..., None, None, None], 0)
    some = -decode(z.take_along_dim(chosen[..., None], 0)).log_prob(some_x) * (len(z) / count)
    return some.new_zeros(z.shape[:-1]).scatter(0, chosen, some)


FRAME_DIMS = 5


class FlowVAE(nn.Module):
    r"""A VAE that explains a sequence :math:`x_0, \dots, x_T` by one latent and the flow of a transformation.

    The posterior :math:`q(z_0 | x_0)` is carried along the potential :math:`u_k` of the transformation,
    :math:`z_{t+1} = z_t + \nabla u_k(z_t, t)`, and every :math:`z_t` is decoded. With the default bound the objective
    matches the marginals at every time,

    .. math::
        \sum_{t=0}^{T} E\big[\log p(x_t | z_t) - \log q_t(z_t) + \log p_t(z_t)\big], \qquad
        \log q_t(z_t) = \log q(z_0 | x_0) - \sum_{s < t} \log|\det(I + \nabla^2 u_k(z_s, s))| ,

    each summand a lower bound of :math:`\log p_t(x_t)` while the steps are invertible. Training minimises its negative
    plus the mean squared residual of a PDE for the potential, at random times on the path. The path is rolled out
    first; all frames are then decoded in one batch. The dynamics are computed outside of autocast, in the precision
    of the parameters.

    With ``dynamics=HopfLaxFlow`` the potentials of the bank are those at time 0, :math:`z_t = z_0 + t \nabla u_k(z_0)`,
    the Hamilton-Jacobi equation holds by construction, and ``residual`` may be None.

    ``forward`` is the whole objective, as a dictionary of its terms, so that DDP, Fabric or Lightning, which map over
    the tensors of an output, wrap the model unchanged.

    Args:
        encoder: Maps images ``(batch, channels, height, width)`` to a distribution over latents ``(dim,)``.
        decoder: Maps latents ``(batch, dim)`` to what the likelihood takes.
        bank: The potentials, one for each transformation.
        prior: Maps a time and an index to the distribution :math:`p_t`.
        residual: The PDE that the potential of the flow has to satisfy, or None for no equation.
        likelihood: Maps the decoder's output to a distribution over images.
        bound: The lower bound to train: ``MarginalBound()``, ``JointBound()`` or ``StochasticBound()``.
        residual_weight: The weight of the PDE.
        initial_weight: The weight of the initial condition of the paper, which stops exact Hamilton-Jacobi flows.
        dynamics: Makes the flow from a potential: :class:`PotentialFlow`, :class:`HopfLaxFlow`, or any function of the
            potential that returns a flow with their ``rollout``, ``potential`` and ``on_fold``. Where ``on_fold`` is
            None, the mode of the model decides: ``"warn"`` in training, ``"raise"`` in evaluation.
        collocation: The choice of points at which the residual is evaluated.
        label_posterior: Infers the transformation of sequences without a label, or None if there are none.
        decoded_frames: In training, how many frames of each sequence to decode, drawn anew in every step without
            replacement and scaled up to all of them, so that the gradient stays unbiased; None for all.

    Raises:
        ValueError: If a weight is negative, there is an initial weight without a residual, or ``decoded_frames`` is not
            a positive integer.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), equation 6
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> from latentflow import DiffusionPrior, HJResidual, MLPDecoder
        >>> from latentflow import MLPEncoder, MLPPotential
        >>> model = FlowVAE(
        ...     encoder=MLPEncoder((1, 28, 28), dim=4),
        ...     decoder=MLPDecoder(4, (1, 28, 28)),
        ...     bank=PotentialBank([MLPPotential(4, (16,)), MLPPotential(4, (16,))]),
        ...     prior=DiffusionPrior(4, fields=2),
        ...     residual=HJResidual(),
        ... )
        >>> frames = torch.rand(3, 5, 1, 28, 28)
        >>> objective = model.objective(frames, torch.tensor([0, 1, 1]))
        >>> torch.testing.assert_close(objective.total, objective.residual - objective.bound)
        >>> model(frames, torch.tensor([0, 1, 1]))["total"].backward()
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Distribution],
        decoder: Callable[[Tensor], Tensor],
        bank: PotentialBank,
        prior: Prior,
        residual: PDEResidual | None,
        likelihood: Likelihood | None = None,
        bound: Bound = MarginalBound(),  # noqa: B008 - frozen
        residual_weight: float = 1.0,
        initial_weight: float = 0.0,
        dynamics: Callable[[Field], Dynamics] = PotentialFlow,
        collocation: Collocation = AlongPath(),  # noqa: B008 - frozen
        label_posterior: LabelPosterior | None = None,
        decoded_frames: int | None = None,
    ) -> None:
        super().__init__()
        if decoded_frames is not None:
            check_count("decoded_frames", decoded_frames)
        for name, weight in {"residual_weight": residual_weight, "initial_weight": initial_weight}.items():
            if not weight >= 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {weight!r}")
        if residual is None and initial_weight > 0:
            raise ValueError(f"initial_weight: expected 0 without a residual, got {initial_weight!r}")
        self.encoder = encoder
        self.decoder = decoder
        self.bank = bank
        self.prior = prior
        self.residual = residual
        self.likelihood = BernoulliLikelihood() if likelihood is None else likelihood
        self.bound = bound
        self.residual_weight = residual_weight
        self.initial_weight = initial_weight
        self.dynamics = dynamics
        self.collocation = collocation
        self.label_posterior = label_posterior
        self.decoded_frames = decoded_frames

    def encode(self, x: Tensor) -> Distribution:
        """Infer the latent of images.

        Args:
            x: The images, of shape ``(batch, channels, height, width)``, in [0, 1].

        Returns:
            The distribution :math:`q(z_0 | x)`, with events of shape ``(dim,)``.
        """
        return self.encoder(x)

    def decode(self, z: Tensor) -> Distribution:
        """Say how the images of latents are distributed.

        Args:
            z: The latents, of shape ``(*batch, dim)``; all are decoded in one batch.

        Returns:
            The distribution :math:`p(x | z)`, with events of shape ``(channels, height, width)``. Its mean is the
            picture, of shape ``(*batch, channels, height, width)``.
        """
        decoded = self.decoder(z.reshape(-1, z.shape[-1])).to(z.dtype)  # autocast may have lowered it
        return self.likelihood(decoded.reshape(*z.shape[:-1], *decoded.shape[1:]))

    def potential(self, k: int | Tensor | Field) -> Field:
        """Give the potential that ``k`` names: an index, an index for each sample, or a potential itself."""
        return self.bank.select(k) if isinstance(k, (int, Tensor)) else k

    def flow(self, z0: Tensor, k: int | Tensor | Field, steps: int, volume: Volume | None = None) -> Path:
        """Follow the flow of a transformation.

        Args:
            z0: The latents to start from, of shape ``(*batch, dim)``.
            k: The transformation: an index, an int64 tensor of indices ``(*batch,)``, or a potential such as
                ``model.bank[0] + model.bank[1]``.
            steps: The number of steps.
            volume: The volume change wanted, or None.

        Returns:
            The path, with ``steps + 1`` points.
        """
        with torch.autocast(z0.device.type, enabled=False):
            return self._dynamics(k).rollout(z0, steps, volume=volume)

    def _dynamics(self, k: int | Tensor | Field) -> Dynamics:
        flow = self.dynamics(self.potential(k))
        if flow.on_fold is None:
            flow.on_fold = "warn" if self.training else "raise"
        return flow

    def forward(
        self, frames: Tensor, k: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Compute :meth:`objective` and return its terms by their names."""
        return vars(self.objective(frames, k, generator))

    def objective(self, frames: Tensor, k: Tensor | None = None, generator: torch.Generator | None = None) -> Objective:
        """Compute every term of the objective.

        Args:
            frames: The sequences, of shape ``(batch, T+1, channels, height, width)``, in [0, 1].
            k: The transformation of each sequence, int64 of shape ``(batch,)``; None to infer it. Where a label
                posterior is there and labels are given, it learns them.
            generator: The source of randomness, or None for torch's global one.

        Returns:
            The terms; ``objective.total`` is what training minimises.

        Raises:
            ValueError: If a shape does not fit, there are neither labels nor a label posterior, or a stochastic volume
                is asked for in evaluation mode: its noise biases a bound upwards.
            FoldError: In evaluation mode, if a step of the flow is not invertible: the bound would not be one.
        """
        self._check(frames)
        if k is not None and k.shape != frames.shape[:1]:
            raise ValueError(f"k: expected shape ({len(frames)},), got {tuple(k.shape)}")
        assignment: Assignment
        label_kl = collapse = frames.new_zeros(())
        if k is not None:
            assignment = Known(k)
            if self.label_posterior is not None:
                label_kl = -self.label_posterior(frames).log_prob(k).mean()
        elif self.label_posterior is not None:
            label = self.label_posterior(frames)
            label_kl = self.label_posterior.divergence(label).mean()
            collapse = self.label_posterior.collapse_penalty(label)
            assignment = self.label_posterior.estimator.assign(label, generator)
        else:
            raise ValueError("k: expected the labels of the sequences, since there is no label posterior, got None")
        explanation = self._explain(frames, assignment, generator)
        residual, initial = explanation.residual, explanation.initial_condition
        reconstruction, kl, action, folded = (
            assignment.average(term)
            for term in (explanation.reconstruction, explanation.kl, explanation.action, explanation.folded)
        )
        bound = -(reconstruction.sum() + kl.sum() + label_kl)
        return Objective(
            total=self.residual_weight * residual + self.initial_weight * initial + collapse - bound,
            reconstruction=reconstruction.sum(),
            kl=kl.sum(),
            label_kl=label_kl,
            collapse=collapse,
            residual=residual,
            initial_condition=initial,
            reconstruction_per_time=reconstruction,
            kl_per_time=kl,
            action=action,
            folded=folded,
        )

    def bounds(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        r"""Compute the bound under every label, :math:`\mathcal{L}_k`.

        With equal bounds as evidences the best posterior of the label is their softmax.

        Args:
            frames: The sequences, of shape ``(batch, T+1, channels, height, width)``, in [0, 1].
            generator: The source of randomness, or None for torch's global one.

        Returns:
            The bounds, of shape ``(K, batch)``, in nats.

        Raises:
            ValueError, FoldError: As :meth:`objective` does.
        """
        self._check(frames)
        every = Enumerated(frames.new_full((len(frames), len(self.bank)), 1 / len(self.bank)))
        explanation = self._explain(frames, every, generator)
        return -(explanation.reconstruction.sum(0) + explanation.kl.sum(0))

    def _check(self, frames: Tensor) -> None:
        if frames.ndim != FRAME_DIMS:
            raise ValueError(f"frames: expected shape (batch, T+1, channels, height, width), got {tuple(frames.shape)}")
        volume = self.bound.volume
        if volume is not None and volume.stochastic and not self.training:
            raise ValueError(
                "bound: expected an exact volume in evaluation mode, got a stochastic one: "
                "the noise of random probes biases the bound upwards"
            )

    def _explain(self, frames: Tensor, assignment: Assignment, generator: torch.Generator | None) -> Explanation:
        """Explain every sequence by the potential that it is assigned."""
        batch = assignment.batch_shape(len(frames))
        x = frames.transpose(0, 1)
        posterior = self.encode(x[0])
        later = self._means(x[1:]) if self.bound.looks else None
        z0 = reparameterised_sample(posterior, generator).expand(*batch, -1)
        flow = self._dynamics(assignment.potential(self.bank))
        with torch.autocast(z0.device.type, enabled=False):
            path = self.bound.rollout(flow, z0, len(x) - 1, later, generator)
            residual = initial = z0.new_zeros(())
            if self.residual is not None:
                weights = assignment.weights()
                residual = self.residual.loss(flow.potential, path, generator, self.collocation, weights)
                if self.initial_weight > 0:
                    initial = assignment.average(self.residual.initial_condition(flow.potential, z0))
            kl = assignment.divergence(self.bound, posterior, path, self.prior)
        spread = x.reshape(len(x), *(1,) * (len(batch) - 1), *x.shape[1:])
        count = self.decoded_frames if self.training else None
        return Explanation(
            reconstruction=reconstruct(self.decode, path.z, spread, count, generator),
            kl=kl,
            residual=residual,
            initial_condition=initial,
            action=path.action[-1],
            folded=z0.new_zeros(batch) if path.folded is None else path.folded.any(0).to(z0),
        )

    def _means(self, x: Tensor) -> Tensor:
        """Give what the encoder says of frames ``(T, batch, ...)``, of shape ``(T, batch, dim)``."""
        return self.encode(x.flatten(0, 1)).mean.reshape(*x.shape[:2], -1)

    def generate(self, x0: Tensor, k: int | Tensor | Field, steps: int) -> Tensor:
        """Transform images by the flow, from the mean of their posterior.

        Args:
            x0: The images, of shape ``(batch, channels, height, width)``, in [0, 1].
            k: The transformation: an index, an int64 tensor of indices ``(batch,)``, or a potential such as
                ``model.bank[0] + model.bank[1]``.
            steps: The number of steps ``T``.

        Returns:
            The frames, of shape ``(batch, T+1, channels, height, width)``, in [0, 1]; the first is the reconstruction.
        """
        path = self.flow(self.encode(x0).mean, k, steps)
        return self.decode(path.z).mean.transpose(0, 1)

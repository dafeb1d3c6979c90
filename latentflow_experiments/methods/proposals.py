r"""Proposals for the importance sampling of the latents of a frame.

The likelihood of a frame is :math:`p_t(x_t) = E_r[p(x_t | z)\,p_t(z) / r(z)]` for any proposal :math:`r` that does not
miss a part of the prior. All densities here are exact: noise in a log-density would raise the bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from latentflow import FlowVAE, SlogDet
from latentflow.flow import FoldError, Trajectory
from latentflow.vae.bounds import reparameterized_sample


class ProposalFoldError(FoldError):
    """The flow of a proposal folds at some of its samples, whose density is then not known.

    Attributes:
        share: The share of the samples drawn with at least one step that folds.
    """

    def __init__(self, share: float) -> None:
        super().__init__(
            f"the flow folds for {100 * share:.3g} % of the samples: its log_det is not that of a density, "
            "and the weights would not bound a likelihood"
        )
        self.share = share


class Proposal(Protocol):
    """Draws latents for the frames of sequences of one transformation, and knows their densities."""

    @property
    def shares_latent(self) -> bool | None:
        """Whether all frames of a sequence come from one draw (True), each from its own (False); else None.

        With True the log-ratio is the same at all times, and the product of the likelihoods of the frames is that of
        the sequence; with False frames are independent. With None the model is one of single frames at their times.
        """

    def draw(self, frames: Tensor, samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        r"""Draw independent samples of the latents of every frame.

        Args:
            frames: Sequences, of shape ``(batch, T+1, channels, height, width)``, in [0, 1].
            samples: The number of samples ``S``.
            generator: The source of randomness, or None for torch's global one.

        Returns:
            The latents to decode, of shape ``(S, T+1, batch, dim)``, and :math:`\log p_t(z) - \log r(z)`, of shape
            ``(S, T+1, batch)``, in nats.

        Raises:
            ProposalFoldError: If the density of a sample is not known because the flow folds.
            ValueError: If a shape does not fit, or ``samples`` is not a positive integer.
        """


@dataclass(frozen=True)
class FromFlow:
    r"""The posterior of the first frame, carried along the flow of a transformation.

    .. math::
        z_0 \sim q(z_0 | x_0), \qquad
        \log r(z_t) = \log q(z_0 | x_0) - \sum_{s<t} \log|\det(I + \nabla^2 u_k(z_s, s))|

    with the exact determinant, whatever ``log_det`` the model trains with. It tests the flow: later frames are not
    read.

    Attributes:
        model: The model, in evaluation mode, with a posterior that is normal.
        k: Its potential and prior.

    Example:
        >>> from latentflow import DiffusionPrior, MLPDecoder, MLPEncoder, PotentialBank, QuadraticPotential
        >>> model = FlowVAE(
        ...     encoder=MLPEncoder((1, 4, 4), dim=2),
        ...     decoder=MLPDecoder(2, (1, 4, 4)),
        ...     bank=PotentialBank([QuadraticPotential(2, torch.eye(2))]),  # each step doubles
        ...     prior=DiffusionPrior(2),
        ...     residual=None,
        ... ).eval()
        >>> z, log_ratio = FromFlow(model, 0).draw(torch.rand(5, 4, 1, 4, 4), samples=7)
        >>> assert log_ratio.shape == (7, 4, 5)
        >>> torch.testing.assert_close(z[:, 3], 8 * z[:, 0])
    """

    model: FlowVAE
    k: int

    @property
    def shares_latent(self) -> None:
        """None: it knows the frames at their times, not together."""

    def draw(self, frames: Tensor, samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw independent samples of the latents of every frame; see :class:`Proposal`."""
        _check(frames, samples)
        z0, log_q = _sample(self.model.encode(frames[:, 0]), samples, generator)
        with torch.autocast(z0.device.type, enabled=False):
            trajectory = self._follow(z0, frames.shape[1] - 1)
            prior = self.model.prior(t=trajectory.times.reshape(-1, 1, 1), k=self.k)
            assert trajectory.log_det is not None, "the rollout computes it"
            log_ratio: Tensor = prior.log_prob(trajectory.z) - (log_q - trajectory.log_det)
        return trajectory.z.transpose(0, 1), log_ratio.transpose(0, 1)

    def _follow(self, z0: Tensor, steps: int) -> Trajectory:
        trajectory = self.model.flow_of(self.k).rollout(z0, steps, log_det=SlogDet(), on_fold="ignore")
        if trajectory.folded is not None and trajectory.folded.any():
            raise ProposalFoldError(float(trajectory.folded.any(0).double().mean()))
        return trajectory


@dataclass(frozen=True)
class FromSharedFlow:
    r"""The posterior of the first frame, in a model of which the flow is a part.

    .. math:: z_0 \sim q(z_0 | x_0), \qquad \frac{p_t(z_t)}{r(z_t)} = \frac{p_0(z_0)}{q(z_0 | x_0)}

    For a model that was trained by the joint bound, whose prior at time t is what the flow makes of :math:`p_0`: the
    determinants of prior and proposal cancel. The bound also holds where the flow folds.

    Attributes:
        model: The model, in evaluation mode, with a posterior that is normal.
        k: Its potential.
    """

    model: FlowVAE
    k: int

    @property
    def shares_latent(self) -> bool:
        """True: one latent explains all frames."""
        return True

    def draw(self, frames: Tensor, samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw independent samples of the latents of every frame; see :class:`Proposal`."""
        _check(frames, samples)
        z0, log_q = _sample(self.model.encode(frames[:, 0]), samples, generator)
        with torch.autocast(z0.device.type, enabled=False):
            z = self.model.flow_of(self.k).rollout(z0, frames.shape[1] - 1, log_det=None).z
            log_ratio = self.model.prior(t=0.0, k=self.k).log_prob(z0) - log_q
        return z.transpose(0, 1), log_ratio.unsqueeze(1).expand(z.shape[1], len(z), -1)


@dataclass(frozen=True)
class FromEncoder:
    r"""The posterior :math:`q(z | x_t)` of each frame itself, against the prior :math:`p_t` of a transformation.

    It tests the decoder and the prior: the flow is not used.

    Attributes:
        model: The model, in evaluation mode, with a posterior that is normal.
        k: Its prior.
    """

    model: FlowVAE
    k: int

    @property
    def shares_latent(self) -> None:
        """None: it knows the frames at their times, not together."""

    def draw(self, frames: Tensor, samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw independent samples of the latents of every frame; see :class:`Proposal`."""
        z, log_q = _sample_each_frame(self.model.encode, frames, samples, generator)
        with torch.autocast(z.device.type, enabled=False):
            times = torch.arange(frames.shape[1], dtype=z.dtype, device=z.device).unsqueeze(-1)
            log_p: Tensor = self.model.prior(t=times, k=self.k).log_prob(z)
        return z, log_p - log_q


@dataclass(frozen=True)
class FromEncoderStandard:
    r"""The posterior :math:`q(z | x_t)` of each frame itself, against the prior :math:`N(0, I)` of all times.

    Attributes:
        encode: Maps images ``(batch, channels, height, width)`` to normal distributions over latents ``(dim,)``.

    Example:
        >>> from latentflow import MLPEncoder
        >>> encoder = MLPEncoder((1, 4, 4), dim=2)
        >>> z, log_ratio = FromEncoderStandard(encoder).draw(torch.rand(5, 4, 1, 4, 4), samples=7)
        >>> assert z.shape == (7, 4, 5, 2) and log_ratio.shape == (7, 4, 5)
    """

    encode: Callable[[Tensor], Distribution]

    @property
    def shares_latent(self) -> bool:
        """False: frames are independent."""
        return False

    def draw(self, frames: Tensor, samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw independent samples of the latents of every frame; see :class:`Proposal`."""
        z, log_q = _sample_each_frame(self.encode, frames, samples, generator)
        standard: Distribution = Independent(Normal(torch.zeros_like(z), 1.0, validate_args=False), 1)
        log_p: Tensor = standard.log_prob(z)
        return z, log_p - log_q


class Proposer(Protocol):
    """A model that proposes latents itself, such as a topographic VAE."""

    def propose(self, frames: Tensor, samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw what the decoder takes and the log-ratio of all latents that it depends on; see :class:`Proposal`."""


@dataclass(frozen=True)
class FromTVAE:
    r"""The posterior of a topographic VAE, over everything on which the latent of a frame depends.

    Attributes:
        model: The model, in evaluation mode.
    """

    model: Proposer

    @property
    def shares_latent(self) -> None:
        """None: it knows the frames at their times, not together."""

    def draw(self, frames: Tensor, samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw independent samples of the latents of every frame; see :class:`Proposal`."""
        _check(frames, samples)
        s, log_ratio = self.model.propose(frames, samples, generator)
        shape = (samples, frames.shape[1], frames.shape[0])
        if s.shape[:-1] != shape or log_ratio.shape != shape:
            raise ValueError(
                f"model: expected latents of shape {(*shape, 'dim')} and log-ratios of shape {shape}, "
                f"got {tuple(s.shape)} and {tuple(log_ratio.shape)}"
            )
        return s, log_ratio


def _sample_each_frame(
    encode: Callable[[Tensor], Distribution], frames: Tensor, samples: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Sample the posterior of each frame: latents ``(S, T+1, batch, dim)`` and their log-densities."""
    _check(frames, samples)
    z, log_q = _sample(encode(frames.transpose(0, 1).flatten(0, 1)), samples, generator)
    shape = (samples, frames.shape[1], frames.shape[0])
    return z.reshape(*shape, -1), log_q.reshape(shape)


def _sample(posterior: Distribution, samples: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Sample a posterior so many times: latents ``(S, *batch, dim)`` and their log-densities ``(S, *batch)``."""
    many = posterior.expand(torch.Size((samples, *posterior.batch_shape)))
    z = reparameterized_sample(many, generator)
    return z, many.log_prob(z)


def _check(frames: Tensor, samples: int) -> None:
    if frames.ndim != 5:
        raise ValueError(f"frames: expected shape (batch, T+1, channels, height, width), got {tuple(frames.shape)}")
    if not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples: expected a positive integer, got {samples!r}")

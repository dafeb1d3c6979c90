"""The topographic variational autoencoder, with latents that roll around capsules."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from latentflow.vae import Likelihood
from latentflow.vae.bounds import estimate_divergence, reparameterized_sample
from latentflow_experiments.data import SequenceDataset
from latentflow_experiments.methods.method import (
    Choice,
    Method,
    ModelSettings,
    build_decoder,
    build_encoder,
)
from latentflow_experiments.methods.pixels import LIKELIHOODS
from latentflow_experiments.methods.proposals import FromTVAE, Proposal

NEIGHBORS = (-1, 0, 1)  # the frames whose energies one frame sees


LEAST_FRAMES = 3  # so that these are different frames


START_MEAN = 30.0


FLOOR = 1e-6


class TVAE(nn.Module):
    r"""The topographic VAE: a transformation rolls the latents around capsules, one slot for each frame.

    Two encoders infer normal latents :math:`z_t` and :math:`u_t` of every frame, both with the prior :math:`N(0, I)`.
    They consist of capsules, rings of :math:`L = T + 1` slots: coordinate :math:`c L + j` is slot :math:`j` of capsule
    :math:`c`. A frame is decoded from

    .. math::
        s_t = \frac{z_t + \mu}{\sqrt{W_t + 10^{-6}}}, \qquad
        W_{t,c,j} = \sum_{\delta=-1}^{1} \sum_{|o| \le w} u_{t+\delta,c,j+\delta+o}^2 ,

    which has the heavy tails of Student's t distribution and shares its scale :math:`W` among neighboring slots and
    frames; :math:`\mu` is learned. Slots and frames are both counted in a circle, modulo :math:`T + 1`. The shift by
    one slot from frame to frame makes sequences likely that roll, :math:`u_{t+1,c,j+1} = u_{t,c,j}`: then all three
    frames see the same energies. Training minimizes, as the mean over the frames,

    .. math:: -E[\log p(x_t | s_t)] + KL(q(z_t | x_t) \| N(0, I)) + KL(q(u_t | x_t) \| N(0, I)).

    A transformation moves a latent by rolling :math:`s_0` by one slot for each step, whichever transformation it is.
    Since :math:`s_0` depends on the frames :math:`x_1` and :math:`x_T`, the method sees what it has to predict and
    counts as supervised. Sequences that do not return to their start break the assumption of a circle.

    It is no autoencoder of single images: the decoder takes :math:`s`, not :math:`z`, and an image alone has no
    :math:`s`.

    Args:
        encoder: Maps images to a normal distribution over :math:`z`.
        energy_encoder: Maps images to a normal distribution over :math:`u`.
        decoder: Maps :math:`s`, of shape ``(batch, dim)``, to what the likelihood takes.
        likelihood: Maps the decoder's output to a distribution over images.
        dim: The number of coordinates of each of :math:`z`, :math:`u` and :math:`s`: capsules times ``frames``.
        frames: The number of frames ``T + 1`` of a sequence, which is also the number of slots of a capsule.
        spread: The number :math:`w` of slots that the window extends to each side, or None for a window of about half
            the ring, ``frames // 4``.

    Raises:
        ValueError: If there are fewer than three frames, ``dim`` is not a positive multiple of ``frames``, or the
            window is wider than the ring.

    References:
        T. A. Keller and M. Welling, Topographic VAEs learn Equivariant Capsules, NeurIPS 2021.

    Example:
        >>> from latentflow import MLPDecoder, MLPEncoder
        >>> from latentflow.vae import BernoulliLikelihood
        >>> shape = (1, 8, 8)
        >>> model = TVAE(
        ...     encoder=MLPEncoder(shape, 10),
        ...     energy_encoder=MLPEncoder(shape, 10),
        ...     decoder=MLPDecoder(10, shape),
        ...     likelihood=BernoulliLikelihood(),
        ...     dim=10,
        ...     frames=5,
        ... )
        >>> frames = torch.rand(2, 5, 1, 8, 8)
        >>> terms = model(frames, torch.tensor([0, 1]))
        >>> torch.testing.assert_close(terms["total"], terms["reconstruction"] + terms["kl"])
        >>> z = model.follow(model.start(frames), k=0, steps=5)
        >>> assert torch.equal(z[5], z[0])  # once around the capsule
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Distribution],
        energy_encoder: Callable[[Tensor], Distribution],
        decoder: Callable[[Tensor], Tensor],
        likelihood: Likelihood,
        dim: int,
        frames: int,
        spread: int | None = None,
    ) -> None:
        super().__init__()
        if frames < LEAST_FRAMES:
            raise ValueError(f"frames: expected a number of at least {LEAST_FRAMES}, got {frames}")
        if dim < 1 or dim % frames:
            raise ValueError(f"dim: expected a positive multiple of the {frames} frames, got {dim}")
        spread = frames // 4 if spread is None else spread
        if not 0 <= spread <= (frames - 1) // 2:
            raise ValueError(f"spread: expected a number in 0..{(frames - 1) // 2}, got {spread}")
        self.encoder = encoder
        self.energy_encoder = energy_encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.frames = frames
        self.spread = spread
        self.mean = nn.Parameter(torch.full((dim,), START_MEAN))

    def forward(
        self,
        frames: Tensor,
        k: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Compute the terms of the loss.

        Args:
            frames: Sequences, of shape ``(batch, T+1, channels, height, width)``, in [0, 1].
            k: Not used.
            generator: The source of randomness, or None for torch's global one.

        Returns:
            The terms by their names, each of shape ``()``, in nats: ``reconstruction``, ``kl``, which is the sum of
            ``kl_z`` and ``kl_u``, and ``total``, which training minimizes.

        Raises:
            ValueError: If ``frames`` has another number of dimensions or of frames.
        """
        posteriors = self._posteriors(frames)
        z, u = (reparameterized_sample(posterior, generator) for posterior in posteriors)
        s = self.group(self._by_frame(z), self._by_frame(u))
        reconstruction = -self.decode(s).log_prob(frames.transpose(0, 1)).mean()
        kl_z, kl_u = (
            estimate_divergence(posterior, _standard(sample), sample).mean()
            for posterior, sample in zip(posteriors, (z, u), strict=True)
        )
        return {
            "total": reconstruction + kl_z + kl_u,
            "reconstruction": reconstruction,
            "kl": kl_z + kl_u,
            "kl_z": kl_z,
            "kl_u": kl_u,
        }

    def energy(self, u: Tensor) -> Tensor:
        r"""Sum the squares :math:`u^2` over neighboring slots and frames.

        Args:
            u: Latents of all frames, of shape ``(*samples, T+1, batch, dim)``.

        Returns:
            The energies :math:`W`, of the same shape.
        """
        squares = self._capsules(u.square())
        offsets = range(-self.spread, self.spread + 1)
        windows = torch.stack([squares.roll(-offset, -1) for offset in offsets]).sum(0)
        neighbors = [windows.roll((-delta, -delta), (-4, -1)) for delta in NEIGHBORS]
        return torch.stack(neighbors).sum(0).flatten(-2)

    def group(self, z: Tensor, u: Tensor) -> Tensor:
        r"""Compute :math:`s` of all frames.

        Args:
            z: Latents of all frames, of shape ``(*samples, T+1, batch, dim)``.
            u: Latents of all frames, of the same shape.

        Returns:
            The topographic latents :math:`s`, of the same shape.
        """
        return (z + self.mean) / (self.energy(u) + FLOOR).sqrt()

    def infer(self, frames: Tensor) -> Tensor:
        r"""Infer the topographic latents of all frames, without noise.

        They are those of the posterior mean of :math:`z` and of :math:`E[u^2] = \mu_u^2 + \sigma_u^2`. The mean of
        :math:`u` alone would not do: where the posterior is the prior it is zero, and :math:`s` without bounds.

        Args:
            frames: Sequences, of shape ``(batch, T+1, channels, height, width)``, in [0, 1].

        Returns:
            The latents :math:`s`, of shape ``(T+1, batch, dim)``.

        Raises:
            ValueError: If ``frames`` has another number of dimensions or of frames.
        """
        z, u = self._posteriors(frames)
        root_mean_square = (u.mean.square() + u.variance).sqrt()
        return self.group(self._by_frame(z.mean), self._by_frame(root_mean_square))

    def start(self, frames: Tensor) -> Tensor:
        r"""Infer :math:`s_0`, of shape ``(batch, dim)``, from sequences as in :meth:`infer`.

        It needs all frames of the sequences, of which it sees the first, the second and the last.
        """
        return self.infer(frames)[0]

    def follow(self, z0: Tensor, k: int, steps: int) -> Tensor:
        """Roll latents around their capsules, by one slot for each step.

        Args:
            z0: The topographic latents to start from, of shape ``(batch, dim)``.
            k: Not used.
            steps: The number of steps ``T``.

        Returns:
            The latents at all times, of shape ``(T+1, batch, dim)``.
        """
        ring = self._capsules(z0)
        return torch.stack([ring.roll(t, -1) for t in range(steps + 1)]).flatten(-2)

    def back(self, z: Tensor, k: int, steps: int) -> Tensor:
        """Roll latents back, the last of which are ``z``; see :meth:`follow`."""
        return self.follow(self._capsules(z).roll(-steps, -1).flatten(-2), k, steps)

    def decode(self, z: Tensor) -> Distribution:
        """Compute the distribution of the images of topographic latents ``(*batch, dim)``."""
        decoded = self.decoder(z.reshape(-1, z.shape[-1])).to(z.dtype)  # autocast may have lowered it
        return self.likelihood(decoded.reshape(*z.shape[:-1], *decoded.shape[1:]))

    def propose(self, frames: Tensor, samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        r"""Draw latents for importance-weighted bounds of the likelihoods of the single frames.

        The latents of which :math:`s_t` consists are :math:`z_t` and the :math:`u` of three frames, in a circle. For
        each frame the ratio is that of exactly these:

        .. math:: \log\frac{p(z_t)}{q(z_t | x_t)} + \sum_{\delta=-1}^{1}
            \log\frac{p(u_{t+\delta})}{q(u_{t+\delta} | x_{t+\delta})} .

        So :math:`E[p(x_t | s_t) \, e^{\text{ratio}}] = p(x_t)` for every frame. The frames share their samples of
        :math:`u`: the bounds of different frames are not independent, and the sum of their ratios is not the ratio of
        the sequence.

        Args:
            frames: Sequences, of shape ``(batch, T+1, channels, height, width)``, in [0, 1].
            samples: The number of samples.
            generator: The source of randomness, or None for torch's global one.

        Returns:
            The topographic latents :math:`s`, of shape ``(samples, T+1, batch, dim)``, and the log-ratios, of shape
            ``(samples, T+1, batch)``, in nats.

        Raises:
            ValueError: If there are no samples, or ``frames`` has another number of dimensions or of frames.
        """
        if samples < 1:
            raise ValueError(f"samples: expected a number of at least 1, got {samples}")
        (z, ratio_z), (u, ratio_u) = (_draw(posterior, samples, generator) for posterior in self._posteriors(frames))
        shape = (samples, self.frames, len(frames))
        ratio_z, ratio_u = ratio_z.reshape(shape), ratio_u.reshape(shape)
        neighbors = torch.stack([ratio_u.roll(-delta, 1) for delta in NEIGHBORS]).sum(0)
        return self.group(z.reshape(*shape, -1), u.reshape(*shape, -1)), ratio_z + neighbors

    def _posteriors(self, frames: Tensor) -> tuple[Distribution, Distribution]:
        """Encode sequences; the posteriors of z and u have the batch shape ``((T+1) * batch,)``, frame by frame."""
        if frames.ndim != 5 or frames.shape[1] != self.frames:
            raise ValueError(
                f"frames: expected shape (batch, {self.frames}, channels, height, width), got {tuple(frames.shape)}"
            )
        images = frames.transpose(0, 1).flatten(0, 1)
        return self.encoder(images), self.energy_encoder(images)

    def _by_frame(self, part: Tensor) -> Tensor:
        """Split latents of all images, ``((T+1) * batch, dim)``, into ``(T+1, batch, dim)``."""
        return part.reshape(self.frames, -1, part.shape[-1])

    def _capsules(self, z: Tensor) -> Tensor:
        """Split latents ``(*batch, dim)`` into ``(*batch, capsules, slots)``."""
        return z.reshape(*z.shape[:-1], -1, self.frames)


def _standard(z: Tensor) -> Distribution:
    """Return the standard normal distribution of latents ``(*batch, dim)``."""
    return Independent(Normal(torch.zeros_like(z), 1.0, validate_args=False), 1, validate_args=False)


def _draw(posterior: Distribution, samples: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Draw ``(samples, count, dim)`` latents; return them with ``log p - log q``, of shape ``(samples, count)``."""
    many = posterior.expand(torch.Size((samples, *posterior.batch_shape)))
    z = reparameterized_sample(many, generator)
    log_p: Tensor = _standard(z).log_prob(z)
    return z, log_p - many.log_prob(z)


class TVAEMethod(Method[TVAE]):
    """The topographic VAE, whose own roll moves the latents."""

    name = "tvae"

    def build(self, settings: ModelSettings, data: SequenceDataset) -> TVAE:
        """Build the model; its latents are whole capsules, so there may be a few more than ``--dim``."""
        frames, likelihood = data.steps + 1, LIKELIHOODS[settings.likelihood]()
        dim = frames * math.ceil(settings.dim / frames)
        encoder, decoder = build_encoder(settings, data, dim), build_decoder(settings, data, dim)
        return TVAE(encoder, build_encoder(settings, data, dim), decoder, likelihood, dim, frames)

    def motion(self, model: TVAE, choice: Choice) -> TVAE:
        """Return the model, which rolls its latents itself."""
        return model

    def proposals(self, model: TVAE, choice: Choice) -> dict[str, Callable[[int], Proposal]]:
        """Return the posterior of all that a frame depends on, the same for all transformations."""
        return {"encoder": lambda _k: FromTVAE(model)}


METHODS = (TVAEMethod(),)

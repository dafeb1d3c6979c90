"""The variational autoencoder of sequences with latents that flow along potentials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, constraints

from latentflow.calculus import Field
from latentflow.calculus.checks import (
    check_callable,
    check_count,
    check_generator,
    check_images,
    check_index,
    check_instance,
    check_methods,
    check_nonnegative,
    check_points,
    check_steps,
    describe,
)
from latentflow.flow import Flow, OnFold, PotentialFlow
from latentflow.flow.trajectory import check_policy
from latentflow.pde import AlongPath, Collocation, PDEResidual
from latentflow.potentials import PotentialBank
from latentflow.priors import DiffusedPrior, Prior, TransportedPrior
from latentflow.vae.bounds import Assignment, Bound, Enumerated, JointBound, Known, reparameterized_sample
from latentflow.vae.label_posterior import LabelPosterior
from latentflow.vae.networks import BernoulliLikelihood, Likelihood


@dataclass(frozen=True)
class Objective:
    r"""Every term of the objective, averaged over the batch, in nats unless said otherwise.

    Attributes:
        total: The loss, of shape ``()``: reconstruction + kl + label_kl + collapse + the weighted residual.
        reconstruction: :math:`-\sum_t E \log p(x_t | z_t)`, of shape ``()``; an unbiased estimate where not all frames
            are decoded.
        kl: :math:`\sum_t E[\log q_t(z_t) - \log p_t(z_t)]`, as the bound computes it, of shape ``()``.
        label_kl: :math:`KL(q(k | x_0, \dots, x_T) \| p(k))`, of shape ``()``; where labels are given, the cross-entropy
            :math:`-\log q(k | x_0, \dots, x_T)` of the label posterior if there is one, else zero.
        collapse: The weighted penalty against the collapse of the label posterior, of shape ``()``; zero with labels.
        residual: The mean squared residual of the PDE, with its penalty, of shape ``()``.
        reconstruction_per_time: The summands of ``reconstruction``, of shape ``(T+1,)``; where not all are decoded,
            from those that were.
        kl_per_time: The summands of ``kl``, of shape ``(T+1,)``.
        action: The mean of :math:`\int |\nabla u|^2 dt`, of shape ``()``, in squared lengths per time.
        folded: The share of samples with a step that folds, of shape ``()``.
    """

    total: Tensor
    reconstruction: Tensor
    kl: Tensor
    label_kl: Tensor
    collapse: Tensor
    residual: Tensor
    reconstruction_per_time: Tensor
    kl_per_time: Tensor
    action: Tensor
    folded: Tensor

    @property
    def bound(self) -> Tensor:
        r"""The composite bound :math:`\sum_t \mathcal{L}_t \le \sum_t \log p_t(x_t)`, of shape ``()``."""
        return -(self.reconstruction + self.kl + self.label_kl)


@dataclass(frozen=True)
class BoundTerms:
    """The terms before the average: ``(T+1, *batch)``, ``()`` for the residual, ``(*batch,)`` for the last two."""

    reconstruction: Tensor
    kl: Tensor
    residual: Tensor
    action: Tensor
    folded: Tensor


def reconstruct(
    decode: Callable[[Tensor], Distribution],
    z: Tensor,
    x: Tensor,
    count: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Compute the negative log-likelihood ``(T+1, *batch)`` of frames ``x`` from latents ``z`` ``(T+1, *batch, dim)``.

    With a ``count`` every sequence decodes so many random frames without replacement, scaled up so that the sum over
    the times is unbiased; the entries of other frames are zero.
    """
    if count is None or count >= len(z):
        return -decode(z).log_prob(x)
    lots = torch.rand(z.shape[:-1], generator=generator, device=z.device)  # of every sequence its own
    chosen = lots.argsort(0)[:count]
    batch = z.shape[1:-1]
    places = [torch.arange(n, device=z.device).view(-1, *[1] * (len(batch) - 1 - i)) for i, n in enumerate(batch)]
    some_x = x.expand(*z.shape[:-1], *x.shape[-3:])[chosen, *places]  # a tenth of the time of take_along_dim
    some = -decode(z[chosen, *places]).log_prob(some_x) * (len(z) / count)
    return some.new_zeros(z.shape[:-1]).scatter(0, chosen, some)


class FlowVAE(nn.Module):
    r"""A VAE of sequences :math:`x_0, \dots, x_T` with one latent and the flow of a transformation.

    The samples of the posterior :math:`q(z_0 | x_0)` follow the potential :math:`u_k` of the transformation,
    :math:`z_{t+1} = z_t + \nabla u_k(z_t, t)`, and every :math:`z_t` is decoded. The default bound is that of the whole
    sequence, whose latents flow in the model as in the posterior,

    .. math::
        \sum_{t=0}^{T} E\big[\log p(x_t | z_t)\big] - KL\big(q(z_0 | x_0) \| p_0\big)
        \le \log p(x_0, \dots, x_T | k) .

    It holds for every flow, invertible or not, and needs no Jacobian. :class:`MarginalBound` compares the densities at
    every time instead, as the paper does. Training minimizes the negative bound
    plus the mean squared residual of a PDE for the potential, at random times on the trajectory. The dynamics are
    computed outside of autocast. With ``dynamics=HopfLaxFlow`` the bank holds the potentials at time 0, and the
    Hamilton-Jacobi equation holds without a residual. ``forward`` returns the scalar terms of the objective as a
    dictionary, which DDP, Fabric and Lightning handle and log.

    Args:
        encoder: Maps images ``(batch, channels, height, width)`` to a distribution over latents ``(dim,)``.
        decoder: Maps latents ``(batch, dim)`` to what the likelihood takes.
        bank: The potentials, one for each transformation.
        prior: Maps a time and an index to the distribution :math:`p_t`.
        residual: The PDE that the potential of the flow has to satisfy, or None for no equation.
        likelihood: Maps the decoder's output to a distribution over images.
        bound: The lower bound: ``JointBound()``, ``MarginalBound()``, ``StochasticBound()`` or your own.
        residual_weight: The weight of the PDE.
        dynamics: Builds the flow of a potential: :class:`PotentialFlow`, :class:`HopfLaxFlow`, or your own function.
        collocation: The choice of points at which the residual is evaluated.
        label_posterior: Infers the transformation of sequences without a label, or None if there are none.
        decoded_frames: The number of random frames of each sequence that a training step decodes, scaled up so that the
            gradient is unbiased; None for all.
        on_fold: See :meth:`Flow.follow`.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If the weight is negative, ``decoded_frames`` is not a positive integer, or the prior has fewer
            fields than the bank has potentials.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), equation 6
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> from latentflow import DiffusionPrior, HJResidual, MLPDecoder, MLPEncoder, MLPPotential
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
        bound: Bound = JointBound(),  # noqa: B008 - frozen
        residual_weight: float = 1.0,
        dynamics: Callable[[Field], Flow] = PotentialFlow,
        collocation: Collocation = AlongPath(),  # noqa: B008 - frozen
        label_posterior: LabelPosterior | None = None,
        decoded_frames: int | None = None,
        on_fold: OnFold | None = None,
    ) -> None:
        super().__init__()
        for name, part in (("encoder", encoder), ("decoder", decoder), ("prior", prior)):
            check_callable(name, part, "a callable")
        if not callable(dynamics):
            raise TypeError(f"dynamics: expected a class of flows or a function, got {describe(dynamics)}")
        check_instance("bank", bank, PotentialBank, "a PotentialBank")
        if residual is not None:
            check_methods("residual", residual, ("loss",), "a PDEResidual or None")
        if likelihood is not None:
            check_callable("likelihood", likelihood, "a Likelihood or None")
        check_methods("bound", bound, ("rollout", "divergence"), "MarginalBound(), JointBound() or another Bound")
        check_nonnegative("residual_weight", residual_weight)
        check_methods("collocation", collocation, ("points",), "a choice of points such as AlongPath()")
        if label_posterior is not None:
            check_methods("label_posterior", label_posterior, ("divergence",), "a LabelPosterior or None")
        if decoded_frames is not None:
            check_count("decoded_frames", decoded_frames)
        check_policy(on_fold)
        fields = _fields_of(prior)
        if fields is not None and fields < len(bank):
            raise ValueError(f"prior: expected {len(bank)} fields, one for each potential of the bank, got {fields}")
        self.encoder = encoder
        self.decoder = decoder
        self.bank = bank
        self.prior = prior
        self.residual = residual
        self.likelihood = BernoulliLikelihood() if likelihood is None else likelihood
        self.bound = bound
        self.residual_weight = residual_weight
        self.dynamics = dynamics
        self.collocation = collocation
        self.label_posterior = label_posterior
        self.decoded_frames = decoded_frames
        self.absent_take_part = True
        self.on_fold = on_fold

    def encode(self, x: Tensor) -> Distribution:
        """Infer :math:`q(z_0 | x)`, events of shape ``(dim,)``, of images ``(batch, channels, height, width)``."""
        check_images("x", x, ("batch", "channels", "height", "width"))
        posterior = self.encoder(x)
        if not isinstance(posterior, Distribution) or len(posterior.event_shape) != 1:
            raise TypeError(
                f"encoder: expected to return a distribution with events of shape (dim,), got {describe(posterior)}"
            )
        return posterior

    def decode(self, z: Tensor) -> Distribution:
        """Compute the distribution of the images of latents.

        Args:
            z: The latents, of shape ``(*batch, dim)``.

        Returns:
            The distribution :math:`p(x | z)`, with events of shape ``(channels, height, width)``; its mean is the
            picture.
        """
        check_points(z)
        decoded = self.decoder(z.reshape(-1, z.shape[-1])).to(z.dtype)  # autocast may have lowered it
        return self.likelihood(decoded.reshape(*z.shape[:-1], *decoded.shape[1:]))

    def flow_of(self, k: int | Tensor | Field) -> Flow:
        """Return the flow of a transformation, in the mode of the model.

        Args:
            k: The transformation: an index, an int64 tensor of indices ``(*batch,)``, or a potential such as
                ``model.bank[0] + model.bank[1]``.

        Returns:
            The flow. Its ``potential`` is the field on which a residual is evaluated.

        Raises:
            TypeError: If ``k`` is a tensor of another dtype than int64.
            ValueError: If an index is out of range.
        """
        if not isinstance(k, (int, Tensor)):
            check_callable("k", k, "an index, an int64 tensor or a potential")
        flow = self.dynamics(self.bank.select(k) if isinstance(k, (int, Tensor)) else k)
        flow.training = self.training  # train() would reach into the potential
        return flow

    def forward(
        self, frames: Tensor, k: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Compute :meth:`objective` and return its scalar terms by their names; all can be logged as they are.

        The terms per time are left out; :meth:`objective` returns them. Where several processes train together, every
        parameter takes part in the total, the potentials of absent transformations with the weight zero:
        ``DistributedDataParallel`` waits for the gradients of all of them. An optimizer with a momentum moves them by
        it. With ``absent_take_part = False`` they stay as they are, as in one process, and
        ``DistributedDataParallel`` needs ``find_unused_parameters=True``.
        """
        objective = self.objective(frames, k, generator)
        terms: dict[str, Tensor] = {name: term for name, term in vars(objective).items() if term.ndim == 0}
        if (
            self.absent_take_part
            and self.training
            and dist.is_available()
            and dist.is_initialized()
            and dist.get_world_size() > 1
        ):
            every = [parameter.flatten()[:1].sum() for parameter in self.parameters() if parameter.requires_grad]
            terms["total"] = terms["total"] + 0.0 * torch.stack(every).sum()
        return terms

    def objective(self, frames: Tensor, k: Tensor | None = None, generator: torch.Generator | None = None) -> Objective:
        """Compute every term of the objective.

        Args:
            frames: The sequences, of shape ``(batch, T+1, channels, height, width)``, in [0, 1].
            k: The transformation of each sequence, int64 of shape ``(batch,)``; None to infer it. A label posterior
                learns given labels.
            generator: The source of randomness.

        Returns:
            The terms; ``objective.total`` is the loss.

        Raises:
            ValueError: If a shape does not fit, there are neither labels nor a label posterior, or the bound has a
                stochastic log-determinant in evaluation mode.
            FoldError: In evaluation mode, if a step of the flow folds.
        """
        self._check(frames, generator)
        assignment: Assignment
        label_kl = collapse = frames.new_zeros(())
        if k is not None:
            check_instance("k", k, Tensor, "an int64 tensor or None")
            if k.shape != frames.shape[:1]:
                raise ValueError(f"k: expected shape ({len(frames)},), got {tuple(k.shape)}")
            assignment = Known(k)
            if self.label_posterior is not None:
                label = self._infer(self.label_posterior, frames)
                label_kl = -label.log_prob(check_index(k, len(self.bank))).mean()  # type: ignore[no-untyped-call]  # of torch
        elif self.label_posterior is not None:
            label = self._infer(self.label_posterior, frames)
            label_kl = self.label_posterior.divergence(label).mean()
            collapse = self.label_posterior.collapse_penalty(label)
            assignment = self.label_posterior.estimator.assign(label, generator)
        else:
            raise ValueError("k: expected the labels of the sequences, since there is no label posterior, got None")
        terms = self._terms(frames, assignment, generator)
        reconstruction, kl, action, folded = (
            assignment.average(term) for term in (terms.reconstruction, terms.kl, terms.action, terms.folded)
        )
        bound = -(reconstruction.sum() + kl.sum() + label_kl)
        return Objective(
            total=self.residual_weight * terms.residual + collapse - bound,
            reconstruction=reconstruction.sum(),
            kl=kl.sum(),
            label_kl=label_kl,
            collapse=collapse,
            residual=terms.residual,
            reconstruction_per_time=reconstruction,
            kl_per_time=kl,
            action=action,
            folded=folded,
        )

    def bounds(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        r"""Compute the bound under every label, :math:`\mathcal{L}_k`.

        Args:
            frames: The sequences, of shape ``(batch, T+1, channels, height, width)``, in [0, 1].
            generator: The source of randomness.

        Returns:
            The bounds, of shape ``(K, batch)``, in nats.

        Raises:
            ValueError: See :meth:`objective`.
            FoldError: See :meth:`objective`.
        """
        self._check(frames, generator)
        every = Enumerated(frames.new_full((len(frames), len(self.bank)), 1 / len(self.bank)))
        terms = self._terms(frames, every, generator)
        return -(terms.reconstruction.sum(0) + terms.kl.sum(0))

    def _check(self, frames: Tensor, generator: torch.Generator | None) -> None:
        check_images("frames", frames, ("batch", "T+1", "channels", "height", "width"))
        check_generator(generator)
        if frames.numel() == 0:
            raise ValueError(f"frames: expected at least one sequence of one frame, got {tuple(frames.shape)}")
        support = getattr(self.likelihood, "support", None)
        if support is constraints.unit_interval:
            low, high = frames.detach().aminmax()
            if not (low >= 0 and high <= 1):
                raise ValueError(
                    f"frames: expected pixels in [0, 1], got pixels in [{float(low):g}, {float(high):g}]"
                    + ("; divide them by 255" if high > 1 else "")
                )
        log_det = self.bound.log_det
        if log_det is not None and log_det.stochastic and not self.training:
            raise ValueError(
                "bound: expected an exact log-determinant in evaluation mode, got a stochastic one: "
                "the noise of random probes biases the bound upwards"
            )

    def _infer(self, label_posterior: LabelPosterior, frames: Tensor) -> Categorical:
        """Infer the transformation of sequences, one of those of the bank."""
        label: Categorical = label_posterior(frames)
        expected = (len(frames), len(self.bank))
        if label.logits.shape != expected:
            raise ValueError(
                f"label_posterior: expected logits of shape {expected}, one for each potential of the bank, "
                f"got {tuple(label.logits.shape)}"
            )
        return label

    def _terms(self, frames: Tensor, assignment: Assignment, generator: torch.Generator | None) -> BoundTerms:
        """Compute the terms of every sequence under its potential."""
        batch = assignment.batch_shape(len(frames))
        x = frames.transpose(0, 1)
        posterior = self.encode(x[0])
        future = self._means(x[1:]) if self.bound.uses_future_frames else None
        z0 = reparameterized_sample(posterior, generator).expand(*batch, -1)
        flow = self.flow_of(assignment.potential(self.bank))
        with torch.autocast(z0.device.type, enabled=False):
            trajectory = self.bound.rollout(flow, z0, len(x) - 1, future, generator, self.on_fold)
            residual = z0.new_zeros(())
            if self.residual is not None:
                weights = assignment.weights()
                residual = self.residual.loss(flow.potential, trajectory, generator, self.collocation, weights)
            kl = assignment.divergence(self.bound, posterior, trajectory, self.prior)
        repeated = x.reshape(len(x), *(1,) * (len(batch) - 1), *x.shape[1:])
        count = self.decoded_frames if self.training else None
        folded = trajectory.folded
        return BoundTerms(
            reconstruction=reconstruct(self.decode, trajectory.z, repeated, count, generator),
            kl=kl,
            residual=residual,
            action=trajectory.action[-1],
            folded=z0.new_zeros(batch) if folded is None else folded.any(0).to(z0),
        )

    def _means(self, x: Tensor) -> Tensor:
        """Infer the means of frames ``(T, batch, ...)``, of shape ``(T, batch, dim)``."""
        return self.encode(x.flatten(0, 1)).mean.reshape(*x.shape[:2], -1)

    def generate(self, x0: Tensor, k: int | Tensor | Field, steps: int) -> Tensor:
        """Transform images by the flow, from the mean of their posterior.

        Args:
            x0: The images, of shape ``(batch, channels, height, width)``, in [0, 1].
            k: The transformation, see :meth:`flow_of`.
            steps: The number of steps ``T``.

        Returns:
            The frames, of shape ``(batch, T+1, channels, height, width)``, in [0, 1]; the first is the reconstruction.
        """
        check_images("x0", x0, ("batch", "channels", "height", "width"))
        check_steps("steps", steps)
        if len(x0) == 0:
            raise ValueError("x0: expected at least one image, got none")
        z0 = self.encode(x0).mean
        with torch.autocast(z0.device.type, enabled=False):
            z = self.flow_of(k).rollout(z0, steps, log_det=None, on_fold=self.on_fold).z
        return self.decode(z).mean.transpose(0, 1)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the model into a folder: ``model.safetensors`` has its tensors, ``config.json`` names its parts.

        The JSON names parts of the library with their arguments, and no code. Modules that occur twice, such as the
        encoder of a :class:`VampPrior`, are written once.

        Args:
            folder: The folder, which is made where it is missing; each file is written whole or not at all.

        Raises:
            ModuleNotFoundError: If the extra ``hub`` is not installed.
            TypeError: If a part is not of the library, or was changed by hand; the text names the part. Save
                ``model.state_dict()`` then.

        Example:
            >>> import tempfile
            >>> from latentflow import DiffusionPrior, MLPDecoder, MLPEncoder, MLPPotential
            >>> bank = PotentialBank([MLPPotential(2, (8,))])
            >>> encoder, decoder = MLPEncoder((1, 8, 8), 2, (16,)), MLPDecoder(2, (1, 8, 8), (16,))
            >>> model = FlowVAE(encoder, decoder, bank, DiffusionPrior(2), residual=None).eval()
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     model.save_pretrained(folder)
            ...     same = FlowVAE.from_pretrained(folder)
            >>> images = torch.rand(3, 1, 8, 8)
            >>> assert torch.equal(same.generate(images, k=0, steps=4), model.generate(images, k=0, steps=4))
        """
        from latentflow.vae.pretrained import save  # noqa: PLC0415 - it names this class among the parts

        save(self, Path(folder))

    @staticmethod
    def from_pretrained(source: Path | str, revision: str | None = None) -> FlowVAE:
        """Read a model that :meth:`save_pretrained` wrote, from a folder or from the Hugging Face hub.

        Nothing in the files is run: they hold numbers, and names of parts that the library knows.

        Args:
            source: The folder, or ``OWNER/NAME`` of a model on the hub.
            revision: The branch, tag or commit on the hub; its main branch if None.

        Returns:
            The model on the CPU, in evaluation mode, with the dtypes that it was saved with.

        Raises:
            FileNotFoundError: If there is no such folder or file.
            ModuleNotFoundError: If the extra ``hub`` is not installed.
            OSError: If the hub cannot be reached, or has no such model.
            ValueError: If a file is damaged, of a newer format, or does not describe a model of the library.
        """
        from latentflow.vae.pretrained import load  # noqa: PLC0415 - it names this class among the parts

        return load(source, revision)


def _fields_of(prior: Prior) -> int | None:
    """Return how many transformations a prior tells apart; None if it is the same for all, or not known."""
    if isinstance(prior, DiffusedPrior):
        return len(prior.diffusivity)
    if isinstance(prior, TransportedPrior) and isinstance(prior.potential, PotentialBank):
        return len(prior.potential)
    return None

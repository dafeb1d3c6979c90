r"""A prior that moves along a flow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from latentflow.calculus import Estimator, Exact, Field, Time
from latentflow.flow import Discrete, PotentialFlow, PushForward, Scheme
from latentflow.flow.scheme import check_scheme
from latentflow.potentials import PotentialBank
from latentflow.potentials.algebra import as_module
from latentflow.priors.arguments import Prior, check_elapsed, check_field, common_shape
from latentflow.priors.stopped_flow import StoppedFlow


class TransportedPrior(nn.Module):
    r"""A prior transported by the flow of a potential: :math:`p_t` is the law of :math:`z_t` if :math:`z_0 \sim p_0`.

    .. math:: \log p_t(z) = \log p_0(z_0) - \log|\det \partial z_t / \partial z_0|, \qquad z_0 = \phi_t^{-1}(z)

    The flow is followed back from the point at which the density is asked. Points with different times are followed
    together as long as they all move, so the cost grows with the number of distinct times.

    If the posterior flows along the same potentials, its divergence from this prior is the same at every time.

    Args:
        prior: The prior to start from, taken at time 0.
        potential: The field, or a bank of fields of which ``k`` names one.
        scheme: ``Discrete(...)`` for unit steps from time 0, as those of :class:`FlowVAE`, between which there is no
            distribution; ``ODEOptions(...)`` for the continuous flow.
        divergence: How to obtain the divergence of the continuous flow; a discrete scheme has a volume of its own. A
            stochastic one trains, but in evaluation mode its log-density is refused: noise biases it upwards.
        dynamics: The flow along a potential: :class:`PotentialFlow` or :class:`HopfLaxFlow`.

    Raises:
        TypeError: If ``potential`` is no callable, or ``scheme`` no scheme.
        ValueError: If a divergence is chosen for a discrete scheme.

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> from latentflow import GaussianPrior, QuadraticPotential
        >>> doubling = QuadraticPotential(2, torch.eye(2))  # the step z -> 2 z
        >>> prior = TransportedPrior(GaussianPrior(2), doubling)
        >>> z = torch.randn(5, 2)
        >>> expected = Independent(Normal(torch.zeros(2), 8 * torch.ones(2)), 1)
        >>> torch.testing.assert_close(prior(t=3.0).log_prob(z), expected.log_prob(z))
    """

    def __init__(
        self,
        prior: Prior,
        potential: Field | PotentialBank,
        scheme: Scheme = Discrete(),  # noqa: B008 - frozen
        divergence: Estimator | None = Exact(),  # noqa: B008 - frozen
        dynamics: Callable[[Field], PotentialFlow] = PotentialFlow,
    ) -> None:
        super().__init__()
        if not callable(potential):
            raise TypeError(f"potential: expected a callable u(z, t) or a bank, got {type(potential).__name__}")
        check_scheme(scheme, divergence)
        self.prior = prior
        self.potential = as_module(potential)
        self.scheme = scheme
        self.divergence = divergence
        self.dynamics = dynamics

    def forward(self, t: Time = 0.0, k: int | Tensor | None = None) -> PushForward:
        """Build the distribution.

        Args:
            t: The time, at least 0, a whole number where the flow is discrete: a number or a tensor. No gradient flows
                to it.
            k: The index of the field: a number or an int64 tensor that broadcasts with ``t``. It may be left out
                unless there is a bank of several fields.

        Returns:
            The distribution, with events of shape ``(dim,)`` and the batch shape to which ``t``, ``k`` and the batch
            shape of the start broadcast. It has ``rsample`` if the start has. Its methods raise what
            :meth:`PotentialFlow.push_forward` says. Where a step folds, a density is refused in evaluation mode and
            warned of in training mode.

        Raises:
            TypeError: If ``k`` is not of dtype int64.
            ValueError: If ``k`` is left out although there are several fields or is out of range, if the time is
                negative or lies between the steps, or if the shapes do not broadcast.
        """
        start = self.prior(t=0.0, k=k)
        time = check_elapsed(t, None if isinstance(t, Tensor) else torch.float64)
        if isinstance(self.scheme, Discrete) and not (time == time.round()).all():
            raise ValueError(f"t: expected whole numbers with a discrete scheme, got {time.tolist()}")
        index = check_field(k, len(self.potential)) if isinstance(self.potential, PotentialBank) else torch.tensor(0)
        base = start.expand(common_shape(time, index, start.batch_shape))

        def flow(moving: Tensor) -> PotentialFlow:
            return self._flow(index if index.ndim == 0 else index.to(moving.device).expand(moving.shape)[moving])

        return PushForward(base, StoppedFlow(flow, time, self.scheme, self.divergence))

    def _flow(self, index: Tensor) -> PotentialFlow:
        potential = self.potential.select(index) if isinstance(self.potential, PotentialBank) else self.potential
        flow = self.dynamics(potential)
        flow.training = self.training  # train() would reach into the potential
        return flow

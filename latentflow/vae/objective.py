r"""The terms of a flow-factorised VAE's objective."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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

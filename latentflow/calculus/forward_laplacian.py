r"""The forward Laplacian: value, gradient and Laplacian of any module, carried through its operations.

A quantity :math:`x(z, t)` inside of a field is carried with its tangents :math:`\partial_i x`, the sum
:math:`\sum_i \partial_i^2 x` and the rate :math:`\partial_t x`. A linear operation applies to each of them; a function
of each entry and a product follow

.. math::
    \Delta f(x) = f'(x) \Delta x + f''(x) \sum_i (\partial_i x)^2, \qquad
    \Delta (x y) = y\,\Delta x + x\,\Delta y + 2 \sum_i \partial_i x\,\partial_i y .

One sum of second derivatives is carried in place of ``dim`` of them, so that the Laplacian costs about ``dim + 2``
evaluations of the field.

References:
    | Forward Laplacian: A New Computational Framework for Neural Network-based Variational Monte Carlo
      (Li et al., 2023)
    | https://arxiv.org/abs/2307.08214
    | Collapsing Taylor Mode Automatic Differentiation (Dangel et al., 2025)
    | https://arxiv.org/abs/2505.13644
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from latentflow.calculus.carried import Carried, Operand, UnknownOperationError
from latentflow.calculus.carried_layers import attention, cdist, layer_norm, multi_head_attention


def carry_forward(u: Callable[[Tensor, Tensor], Tensor], z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Carry value, gradient, time derivative and Laplacian through a field.

    Args:
        u: The field, whose value it has checked.
        z: The points, of shape ``(*batch, dim)``.
        t: The times, of shape ``(*batch,)``.

    Returns:
        The four of them, the second of shape ``(*batch, dim)`` and the others of shape ``(*batch,)``.

    Raises:
        UnknownOperationError: If an operation of the field has no rule.
    """
    if isinstance(z, Carried) or isinstance(t, Carried):
        raise UnknownOperationError("a derivative inside of a field")
    dim, batch = z.shape[-1], z.shape[:-1]
    eye = torch.eye(dim, dtype=z.dtype, device=z.device).reshape(dim, *(1,) * len(batch), dim)
    with SameMode():
        found = u(Carried(z, eye), Carried(t, rate=t.new_ones(()).expand((1,) * t.ndim)))
    carried = found if isinstance(found, Carried) else Carried(found)
    zero = carried.value.new_zeros(())
    tangents, rate, second = (
        zero if part is None else part for part in (carried.tangents, carried.rate, carried.second)
    )
    gradient = tangents.expand(dim, *batch).movedim(0, -1)
    return carried.value, gradient, rate.expand(batch), second.expand(batch)


class SameMode(TorchFunctionMode):
    """A context that refuses operations where a field stops gradients, or has written the derivative of its own.

    Parts of a field below ``torch.no_grad`` have no derivative, and those of a ``torch.autograd.Function`` have another
    one than their operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self._mode = _mode()

    def __torch_function__(
        self,
        func: Callable[..., Operand],
        types: Iterable[type],
        args: tuple[Operand, ...] = (),
        kwargs: Operand = None,
    ) -> Operand:
        """Call a function."""
        if func is torch._C._set_grad_enabled:
            raise UnknownOperationError("a change of the gradient mode")
        if _mode() != self._mode:
            raise UnknownOperationError(f"{getattr(func, '__name__', func)} inside of a torch.autograd.Function")
        return func(*args, **(kwargs or {}))


def _mode() -> tuple[bool, ...]:
    return torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled(), torch.is_inference_mode_enabled()


FORMULAS: dict[Callable[..., Operand], Callable[..., Operand]] = {
    F.layer_norm: layer_norm,
    F.scaled_dot_product_attention: attention,
    F.multi_head_attention_forward: multi_head_attention,
    torch.cdist: cdist,
}


class ByFormula(TorchFunctionMode):
    """A context in which normalized layers, attention and distances are computed by their formulas.

    The derivatives of torch's own are wrong or missing beyond the first: the third of ``layer_norm`` is wrong without a
    word (pytorch/pytorch#175754), fused attention and ``cdist`` have no second. Options that the formulas do
    not know are torch's.
    """

    def __torch_function__(
        self,
        func: Callable[..., Operand],
        types: Iterable[type],
        args: tuple[Operand, ...] = (),
        kwargs: Operand = None,
    ) -> Operand:
        """Call the formula in place of a function."""
        formula = FORMULAS.get(func)
        if formula is not None:
            with suppress(UnknownOperationError):
                return formula(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

r"""Whether a transform of ``torch.func`` is at work."""

from __future__ import annotations

import torch


def transformed() -> bool:
    """Say whether the code runs inside ``torch.func.vmap``, ``grad``, ``jvp`` or their like.

    Nested forward mode of torch (seen in 2.13) gives wrong numbers through a custom ``autograd.Function`` and through
    ``torch.linalg.slogdet``. What depends on it takes another way there.

    Example:
        >>> assert not transformed()
        >>> assert torch.func.vmap(lambda x: x * transformed())(torch.ones(3)).all()
    """
    return torch._C._are_functorch_transforms_active()

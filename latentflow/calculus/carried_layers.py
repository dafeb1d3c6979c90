"""The rules of layers: linear maps, convolutions, attention and normalization of quantities with derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from latentflow.calculus.carried import (
    RULES,
    Carried,
    Operand,
    Rule,
    UnknownOperationError,
    carry,
    full_parts,
    linear_map,
    plus,
    rule,
    value_of,
)


def bilinear(x: Operand, y: Operand, product: Callable[[Tensor, Tensor], Tensor]) -> Operand:
    """Carry through a product that is linear in each of two quantities."""
    value = product(value_of(x), value_of(y))
    if not isinstance(y, Carried):
        return linear_map(x, lambda part: product(part, y), value)
    if not isinstance(x, Carried):
        return linear_map(y, lambda part: product(x, part), value)
    (xt, xs, xr), (yt, ys, yr) = full_parts(x), full_parts(y)
    a, b = x.value, y.value
    by_x = None if xt is None else vmap(product, in_dims=(0, None))(xt, b)
    by_y = None if yt is None else vmap(product, in_dims=(None, 0))(a, yt)
    cross = None if xt is None or yt is None else 2 * vmap(product)(xt, yt).sum(0)
    seconds = (None if xs is None else product(xs, b), None if ys is None else product(a, ys))
    rates = (None if xr is None else product(xr, b), None if yr is None else product(a, yr))
    return carry(value, plus(by_x, by_y), plus(*seconds, cross), plus(*rates))


@rule("linear")
def _linear(x: Operand, weight: Operand, bias: Operand = None) -> Operand:
    if not isinstance(x, Carried) or isinstance(weight, Carried):
        product = bilinear(x, weight, F.linear)
        return product if bias is None else product + bias
    if isinstance(bias, Carried):
        return _linear(x, weight) + bias
    n = x.value.shape[-1]
    whole = [None if part is None else part.expand(*part.shape[:-1], n) for part in (x.tangents, x.second, x.rate)]
    return carry(F.linear(x.value, weight, bias), *(None if part is None else F.linear(part, weight) for part in whole))


@rule("matmul", "__matmul__", "mm", "bmm", "mv", "dot")
def _matmul(x: Operand, y: Operand) -> Operand:
    if isinstance(x, Carried) and not isinstance(y, Carried) and y.ndim == 2:
        return _linear(x, y.mT)
    return bilinear(x, y, torch.matmul)


@rule("__rmatmul__")
def _rmatmul(x: Operand, y: Operand) -> Operand:
    return _matmul(y, x)


@rule("einsum")
def _einsum(equation: str, *operands: Operand) -> Operand:
    carried = [place for place, one in enumerate(operands) if isinstance(one, Carried)]
    if len(operands) == 1:
        return linear_map(operands[0], lambda part: torch.einsum(equation, part))
    if len(operands) == 2:
        return bilinear(*operands, lambda a, b: torch.einsum(equation, a, b))
    if len(carried) > 1:
        raise UnknownOperationError("einsum of several carried quantities and others")
    place = carried[0]

    def product(part: Tensor) -> Operand:
        return torch.einsum(equation, *operands[:place], part, *operands[place + 1 :])

    return linear_map(operands[place], product)


@rule("tensordot")
def _tensordot(a: Operand, b: Operand, dims: Operand = 2, out: Operand = None) -> Operand:  # noqa: ARG001 - as torch
    return bilinear(a, b, lambda x, y: torch.tensordot(x, y, dims))


def _solve(name: str) -> Rule:
    function = getattr(torch.linalg, name)

    def apply(matrix: Operand, x: Operand, **options: Operand) -> Operand:
        if isinstance(matrix, Carried):
            raise UnknownOperationError(f"{name} with a carried matrix")
        return linear_map(x, lambda part: function(matrix, part, **options))

    return apply


RULES |= {f"linalg_{name}": _solve(name) for name in ("solve", "solve_triangular")}


def _convolution(name: str) -> Rule:
    function = getattr(F, name)

    def apply(x: Operand, weight: Operand, bias: Operand = None, *args: Operand, **kwargs: Operand) -> Operand:
        if not isinstance(x, Carried) or isinstance(weight, Carried) or isinstance(bias, Carried):
            raise UnknownOperationError(name)
        value = function(x.value, weight, bias, *args, **kwargs)
        return linear_map(x, lambda part: function(part, weight, None, *args, **kwargs), value)

    return apply


RULES |= {name: _convolution(name) for name in ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d")}


@rule("softmax")
def _softmax(x: Carried, dim: int = -1, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    if dtype is not None:
        raise UnknownOperationError("softmax with a dtype")
    p, place = x.value.softmax(dim), dim % x.value.ndim - x.value.ndim
    tangents, second, rate = full_parts(x)

    def centered(part: Tensor) -> Tensor:
        return part - (p * part).sum(place, keepdim=True)

    parts: list[Tensor | None] = [None if part is None else p * centered(part) for part in (tangents, second, rate)]
    if tangents is not None:
        squares = centered(tangents).square().sum(0)
        parts[1] = plus(parts[1], p * centered(squares))
    return carry(p, *parts)


@rule("softmin")
def _softmin(x: Carried, dim: int = -1, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Operand:
    return _softmax(-x, dim, dtype=dtype)


@rule("logsumexp")
def _logsumexp(x: Carried, dim: Operand, keepdim: bool = False) -> Operand:
    largest = x.value.amax(dim, keepdim=True).detach()
    total = torch.exp(x - largest).sum(dim, keepdim).log()
    return total + (largest if keepdim else largest.sum(dim))


@rule("log_softmax")
def _log_softmax(x: Carried, dim: int = -1, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Operand:
    if dtype is not None:
        raise UnknownOperationError("log_softmax with a dtype")
    return x - _logsumexp(x, dim, keepdim=True)


@rule("logaddexp")
def _logaddexp(x: Operand, y: Operand) -> Operand:
    largest = torch.maximum(value_of(x), value_of(y)).detach()
    return torch.exp(x - largest).add(torch.exp(y - largest)).log() + largest


@rule("glu")
def _glu(x: Carried, dim: int = -1) -> Operand:
    half, gate = x.chunk(2, dim)
    return half * gate.sigmoid()


@rule("bilinear")
def _bilinear(x: Operand, y: Operand, weight: Operand, bias: Operand = None) -> Operand:
    if isinstance(weight, Carried) or isinstance(bias, Carried):
        raise UnknownOperationError("bilinear with carried weights")
    product = bilinear(x, y, lambda a, b: torch.einsum("...i,kij,...j->...k", a, weight, b))
    return product if bias is None else product + bias


@rule("cdist")
def cdist(x1: Operand, x2: Operand, p: float = 2.0, compute_mode: Operand = None) -> Operand:  # noqa: ARG001 - as torch
    """Compute the distances between points, tensors or carried, as :func:`torch.cdist` does."""
    if p != 2:
        raise UnknownOperationError("cdist other than the Euclidean one")
    return (x1.unsqueeze(-2) - x2.unsqueeze(-3)).square().sum(-1).sqrt()


@rule("cosine_similarity")
def _cosine_similarity(x1: Operand, x2: Operand, dim: int = 1, eps: float = 1e-8) -> Operand:
    lengths = [x.square().sum(dim).sqrt().clamp(min=eps) for x in (x1, x2)]
    return (x1 * x2).sum(dim) / (lengths[0] * lengths[1])


def _normalized(x: Operand, dims: tuple[int, ...], eps: float, *, center: bool) -> Operand:
    centered = x - x.mean(dims, keepdim=True) if center else x
    return centered * (centered.square().mean(dims, keepdim=True) + eps).rsqrt()


@rule("layer_norm")
def layer_norm(
    x: Operand,
    normalized_shape: Sequence[int],
    weight: Operand = None,
    bias: Operand = None,
    eps: float = 1e-5,
) -> Operand:
    """Compute a normalized layer, of a tensor or carried, as :func:`torch.nn.functional.layer_norm` does."""
    result = _normalized(x, tuple(range(-len(normalized_shape), 0)), eps, center=True)
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


@rule("rms_norm")
def _rms_norm(x: Carried, normalized_shape: Sequence[int], weight: Operand = None, eps: float | None = None) -> Operand:
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    result = _normalized(x, tuple(range(-len(normalized_shape), 0)), eps, center=False)
    return result if weight is None else result * weight


@rule("group_norm")
def _group_norm(
    x: Operand, num_groups: int, weight: Operand = None, bias: Operand = None, eps: float = 1e-5
) -> Operand:
    groups = x.reshape(x.shape[0], num_groups, -1)
    result = _normalized(groups, (-1,), eps, center=True).reshape(x.shape)
    across = (1, -1, *(1,) * (x.ndim - 2))
    result = result if weight is None else result * weight.reshape(across)
    return result if bias is None else result + bias.reshape(across)


@rule("scaled_dot_product_attention")
def attention(
    query: Operand,
    key: Operand,
    value: Operand,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Operand:
    """Compute attention, of tensors or carried, as torch's ``scaled_dot_product_attention`` does."""
    if dropout_p or enable_gqa:
        raise UnknownOperationError("attention with dropout or grouped queries")
    scores = query @ key.mT
    scores = scores * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        allowed = attn_mask.dtype is torch.bool
        scores = torch.where(attn_mask, scores, scores.new_full((), -torch.inf)) if allowed else scores + attn_mask
    return scores.softmax(-1) @ value


@rule("multi_head_attention_forward")
def multi_head_attention(
    query: Operand,
    key: Operand,
    value: Operand,
    embed_dim_to_check: int,  # noqa: ARG001
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    **others: Operand,
) -> tuple[Tensor, Tensor | None]:
    """Compute attention of several heads, as torch's ``multi_head_attention_forward`` does."""
    special = bias_k is not None or bias_v is not None or add_zero_attn or (dropout_p and training)
    if special or in_proj_weight is None or query.ndim != 3 or any(_given(one) for one in others.values()):
        raise UnknownOperationError("attention with masks, dropout or weights of its own for keys and values")
    length, batch, width = query.shape

    def heads(x: Operand, part: int) -> Operand:
        rows = slice(part * width, (part + 1) * width)
        bias = None if in_proj_bias is None else in_proj_bias[rows]
        moved = F.linear(x, in_proj_weight[rows], bias)
        return moved.reshape(x.shape[0], batch, num_heads, width // num_heads).permute(1, 2, 0, 3)

    q, k, v = (heads(x, part) for part, x in enumerate((query, key, value)))
    weights = (q @ k.transpose(-2, -1) / math.sqrt(width // num_heads)).softmax(-1)
    mixed = (weights @ v).permute(2, 0, 1, 3).reshape(length, batch, width)
    out = F.linear(mixed, out_proj_weight, out_proj_bias)
    if not need_weights:
        return out, None
    return out, weights.mean(1) if average_attn_weights else weights


def _given(option: Operand) -> bool:
    return option is not None and option is not False


@rule("dropout")
def _dropout(x: Carried, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: ARG001 - as torch has it
    if training and p:
        raise UnknownOperationError("dropout in training")
    return x


@rule("norm", "vector_norm", "linalg_vector_norm", "linalg_norm")
def _norm(x: Carried, p: Operand = 2, dim: Operand = None, keepdim: bool = False, **others: Operand) -> Operand:
    order = others.pop("ord", p)
    if any(one is not None for one in others.values()) or dim is None or order not in (2, "fro", None):
        raise UnknownOperationError("a norm other than the Euclidean one along dimensions")
    return x.square().sum(dim, keepdim=keepdim).sqrt()

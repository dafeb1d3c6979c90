"""Fields as users write them, with no rule of their own."""

import math

import torch
from torch import nn
from torch.nn import functional as F

DIM = 6


class Stacked(nn.Module):
    """Layers one after the other, which see the time as one more coordinate."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, z, t):
        return self.layers(torch.cat([z, t.unsqueeze(-1)], -1)).squeeze(-1)


def perceptron(activation):
    return Stacked(nn.Linear(DIM + 1, 8), activation, nn.Linear(8, 8), activation, nn.Linear(8, 1))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(DIM + 1, 8), nn.Linear(8, 1)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, z, t):
        h = self.first(torch.cat([z, t[..., None]], -1))
        for block in self.blocks:
            h = h + torch.tanh(block(h))
        return self.last(h)[..., 0]


class Attention(nn.Module):
    """Attention over tokens of two coordinates, written out."""

    def __init__(self):
        super().__init__()
        self.embed, self.last = nn.Linear(2, 8), nn.Linear(8, 1)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, z, t):
        x = self.embed(z.reshape(*z.shape[:-1], DIM // 2, 2)) + t[..., None, None]
        q, k, v = self.query(x), self.key(x), self.value(x)
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(8), -1)
        return self.last(torch.tanh(weights @ v)).mean((-1, -2))


class Transformer(nn.Module):
    """A block with normalized layers and torch's attention."""

    def __init__(self):
        super().__init__()
        self.embed, self.heads, self.last = nn.Linear(2, 8), nn.Linear(8, 24), nn.Linear(8, 1)
        self.norm = nn.LayerNorm(8)

    def forward(self, z, t):
        batch, tokens = z.shape[0], DIM // 2
        x = self.embed(z.view(batch, tokens, 2))
        heads = self.heads(self.norm(x)).chunk(3, -1)
        q, k, v = (part.reshape(batch, tokens, 2, 4).transpose(1, 2) for part in heads)
        x = x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, 8)
        return self.last(F.gelu(x)).sum((1, 2)) * torch.exp(-t)


class ManyHeads(nn.Module):
    """The module of torch for attention."""

    def __init__(self, need_weights=True):
        super().__init__()
        self.need_weights = need_weights
        self.embed, self.last = nn.Linear(2, 8), nn.Linear(8, 1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, z, t):
        x = self.embed(z.view(-1, DIM // 2, 2))
        mixed, weights = self.attention(x, x, x, need_weights=self.need_weights)
        out = self.last(mixed).sum((1, 2))
        return out + t * weights.square().sum((1, 2)) if self.need_weights else out * t


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 4, 3, padding=1), nn.Conv1d(4, 4, 3, stride=2)
        self.last = nn.Linear(8, 1)

    def forward(self, z, t):
        h = F.silu(self.first(z.unsqueeze(1)))
        return self.last(F.silu(self.second(h)).flatten(1)).squeeze(-1) + t * z.sum(-1)


class Picture(nn.Module):
    """Coordinates that are pixels."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 2, padding=1), nn.GroupNorm(2, 4)

    def forward(self, z, t):
        h = torch.sigmoid(self.norm(self.first(z.reshape(-1, 1, 2, 3))))
        return F.avg_pool2d(h, 2).mean((1, 2, 3)) * (1 + t)


class Siren(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(DIM, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, z, t):
        return self.last(torch.sin(3 * self.second(torch.sin(3 * self.first(z) + t[:, None])))).squeeze(-1)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.value, self.time, self.last = (
            nn.Linear(DIM, 8),
            nn.Linear(DIM, 8),
            nn.Linear(1, 8),
            nn.Linear(8, 1),
        )

    def forward(self, z, t):
        h = F.gelu(self.gate(z)) * self.value(z) * torch.sigmoid(self.time(t.unsqueeze(-1)))
        return self.last(h).squeeze(-1)


class Normalized(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(DIM, 8), nn.LayerNorm(8), nn.Linear(8, 1)

    def forward(self, z, t):
        return self.last(F.softplus(self.norm(self.first(z)))).squeeze(-1) - 0.5 * (z**2).sum(-1) * t


class RootMeanSquare(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(DIM, 8), nn.RMSNorm(8), nn.Linear(8, 1)

    def forward(self, z, t):
        return self.last(self.norm(self.first(z)).tanh()).squeeze(-1) / (1 + t**2)


class Modulated(nn.Module):
    """Layers whose scale and shift depend on sines of the time."""

    def __init__(self):
        super().__init__()
        self.first, self.film, self.last = nn.Linear(DIM, 8), nn.Linear(4, 16), nn.Linear(8, 1)
        self.register_buffer("frequencies", torch.arange(1.0, 3.0))

    def forward(self, z, t):
        angles = t[..., None] * self.frequencies
        scale, shift = self.film(torch.cat([angles.sin(), angles.cos()], -1)).chunk(2, -1)
        return self.last(torch.tanh(self.first(z) * (1 + scale) + shift)).squeeze(-1)


class Kernels(nn.Module):
    def __init__(self):
        super().__init__()
        self.centers, self.weights = nn.Parameter(torch.randn(5, DIM)), nn.Parameter(torch.randn(5))

    def forward(self, z, t):
        squares = ((z[:, None] - self.centers) ** 2).sum(-1)
        return (torch.exp(-squares / (2 + t[:, None])) * self.weights).sum(-1)


class Mixture(nn.Module):
    """The logarithm of a mixture of Gaussians."""

    def __init__(self):
        super().__init__()
        self.centers, self.logits = nn.Parameter(torch.randn(4, DIM)), nn.Parameter(torch.randn(4))

    def forward(self, z, t):
        squares = (z.unsqueeze(-2) - self.centers * t[..., None, None]).square().sum(-1)
        return torch.logsumexp(self.logits.log_softmax(-1) - 0.5 * squares, -1)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(4, DIM))

    def forward(self, z, t):
        return t * z.norm(dim=-1) - torch.log_softmax(z @ self.weights.T, -1)[:, 0]


class Ensemble(nn.Module):
    """Several networks side by side, by batched products."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(3, DIM, 8) / 3)
        self.last = nn.Parameter(torch.randn(3, 8))

    def forward(self, z, t):
        hidden = torch.tanh(torch.einsum("bi,kij->bkj", z, self.first) + t[:, None, None])
        return torch.einsum("bkj,kj->bk", hidden, self.last).mean(-1)


def pairs(z, t):
    """The energy of three bodies in the plane."""
    x = z.reshape(-1, 3, 2)
    squares = (x[:, :, None] - x[:, None]).square().sum(-1) + 0.1
    return (1 / squares).sum((1, 2)) + t * torch.einsum("bi,bi->b", z, torch.tanh(z))


def polynomial(z, t):
    """Coordinates by their numbers, with powers and quotients."""
    return (z[..., 0] * z[..., 1] ** 3 - z[..., 2].pow(4) / (2 + z[..., 3].cos())) * t.exp()


def pieces(z, t):
    """Branches by a condition on the point, and a stack of coordinates."""
    stacked = torch.stack([z[:, 0] ** 2, z[:, 1] * t, z[:, 2].abs()], -1)
    return torch.where(z > 0, z**3, z.exp()).sum(-1) + stacked.sum(-1) + z.clamp(-1, 1).square().mean(-1)


CENTERS = torch.linspace(-1, 1, 3 * DIM).reshape(3, DIM)


def layers_of_two(z, t):
    """Operations on two quantities that layers are made of, each with the point on both sides, and centers like it."""
    centers = CENTERS.to(z)
    others = torch.roll(z, 1, -1) * centers[0]
    gated = F.glu(z, -1).sum(-1) + (F.softmin(z, -1) * others).sum(-1) + torch.logaddexp(z, others).sum(-1)
    weight = centers.unsqueeze(-2) * centers.unsqueeze(-1)
    paired = F.bilinear(z, others, weight, centers[:, 0]).sin().sum(-1) + F.cosine_similarity(z, centers[1:2] + others)
    return gated * t + paired + torch.tensordot(z, centers, dims=([-1], [-1])).cos().sum(-1)


def chosen(z, t):
    """Products and selections of coordinates."""
    even = torch.arange(DIM) % 2 == 0
    order = z.argsort(-1)
    kept = z.masked_fill(even, 2.0).prod(-1, keepdim=True) * torch.take_along_dim(z, order, -1).expand_as(z)
    return (kept * CENTERS[0].to(z)).sum(-1) * t + (z.sigmoid() / 2).logit().square().sum(-1)


def solved(z, t):
    """Densities with a factor of their covariance, and a system of equations."""
    factor = torch.eye(DIM, dtype=z.dtype) + CENTERS[0].to(z).outer(CENTERS[1].to(z)).tril()
    normal = torch.distributions.MultivariateNormal(CENTERS[2].to(z), scale_tril=factor)
    return normal.log_prob(z) * t + torch.linalg.solve(factor, z.sin().mT).square().sum(0)


ACTIVATIONS = (nn.Tanh(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Softplus(2.0), nn.ELU(), nn.Mish(), nn.ReLU())
CLASSES = (
    *(Residual, Attention, Transformer, ManyHeads, Convolutional, Picture, Siren, Gated, Normalized, RootMeanSquare),
    *(Modulated, Kernels, Mixture, Classifier, Ensemble),
)
MODULES = {f"perceptron, {activation}": (lambda a=activation: perceptron(a)) for activation in ACTIVATIONS}
MODULES |= {made.__name__: made for made in CLASSES}
MODULES["ManyHeads, fused"] = lambda: ManyHeads(need_weights=False)
MODULES |= {
    field.__name__: (lambda field=field: field) for field in (pairs, polynomial, pieces, layers_of_two, chosen, solved)
}


def build(name):
    """Return a field in double precision with weights of its name."""
    with torch.random.fork_rng():
        torch.manual_seed(sum(map(ord, name)))
        field = MODULES[name]()
        return field.double() if isinstance(field, nn.Module) else field

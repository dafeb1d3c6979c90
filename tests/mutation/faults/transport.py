"""Faults in distances and certificates of optimal transport."""

from __future__ import annotations

from tests.mutation.fault import Fault

DISTANCES = ("latentflow/transport/test_transport_distances.py",)
GAUSSIAN = ("latentflow/transport/test_transport_gaussian.py", *DISTANCES)
CERTIFICATE = ("latentflow/transport/test_transport_certificate.py",)

FAULTS = (
    Fault(
        "W2 without the factor 2",
        "latentflow/transport/wasserstein.py",
        "+ 2 * clouds.size.square() * divergence",
        "+ clouds.size.square() * divergence",
        DISTANCES,
    ),
    Fault(
        "a blur that is not debiased",
        "latentflow/transport/wasserstein.py",
        "f, g = clouds.potentials(blur, scaling, debias=True)\n    divergence",
        "f, g = clouds.potentials(blur, scaling, debias=False)\n    divergence",
        DISTANCES,
    ),
    Fault(
        "iterations that stop before they have converged",
        "latentflow/transport/sinkhorn.py",
        "going = (misplaced > MISPLACED).unsqueeze(-1)",
        "going = (misplaced > 1.0).unsqueeze(-1)",
        DISTANCES,
    ),
    Fault(
        "the distance of the means left out",
        "latentflow/transport/wasserstein.py",
        "result = (clouds.y_mean - clouds.x_mean).square().sum(-1) + 2 *",
        "result = 2 *",
        DISTANCES,
    ),
    Fault(
        "weights of the points that do not enter",
        "latentflow/transport/wasserstein.py",
        "(clouds.x_weights * f).sum(-1)",
        "f.mean(-1)",
        DISTANCES,
    ),
    Fault(
        "the square root of a distance missing",
        "latentflow/transport/wasserstein.py",
        "torch.where(positive, squared, 1.0).sqrt()",
        "torch.where(positive, squared, 1.0)",
        DISTANCES,
    ),
    Fault(
        "the cross term of Gaussian W2 counted once",
        "latentflow/transport/gaussian.py",
        "+ traces - 2 * shared",
        "+ traces - shared",
        GAUSSIAN,
    ),
    Fault(
        "the cross term of commuting covariances",
        "latentflow/transport/gaussian.py",
        "torch.linalg.svdvals(L1.mT @ L0).sum(-1)",
        "(torch.linalg.eigvalsh(S0).sqrt() * torch.linalg.eigvalsh(S1).sqrt()).sum(-1)",
        GAUSSIAN,
    ),
    Fault(
        "the eigenvalues of a potential without the time",
        "latentflow/transport/gaussian.py",
        "stretch = 1 + expand_time(t, z).unsqueeze(-1) * self.rates",
        "stretch = 1 + self.rates",
        GAUSSIAN,
    ),
    Fault(
        "the time derivative of a potential without 1/2",
        "latentflow/transport/gaussian.py",
        "time_derivative=-along.square().sum(-1) / 2",
        "time_derivative=-along.square().sum(-1)",
        GAUSSIAN,
    ),
    Fault(
        "the map between Gaussians backwards",
        "latentflow/transport/gaussian.py",
        "half = inverse.mT @ axes * torch.where(values > _rounding(values), values, 0.0).pow(0.25)",
        "half = L0 @ axes * values.pow(-0.25)",
        GAUSSIAN,
    ),
    Fault(
        "McCann's interpolation from the other end",
        "latentflow/transport/gaussian.py",
        "return x + expand_time(t, x).unsqueeze(-1) * (partners - x)",
        "return partners + expand_time(t, x).unsqueeze(-1) * (x - partners)",
        DISTANCES,
    ),
    Fault(
        "points of the line that are not sorted",
        "latentflow/transport/wasserstein.py",
        "y.squeeze(-1).sort(-1)",
        "(y.squeeze(-1), y.squeeze(-1).argsort(-1))",
        DISTANCES,
    ),
    Fault(
        "the energy without 1/2",
        "latentflow/transport/certificate.py",
        "return trajectory.action[-1].abs().mean() / 2",
        "return trajectory.action[-1].abs().mean()",
        GAUSSIAN,
    ),
    Fault(
        "the acceleration without its convective part",
        "latentflow/transport/certificate.py",
        "return (jet.gradient_time_derivative + jet.products.squeeze(-2)).square().sum(-1)",
        "return jet.gradient_time_derivative.square().sum(-1)",
        GAUSSIAN,
    ),
    Fault(
        "a cost without the elapsed time",
        "latentflow/transport/certificate.py",
        "elapsed * action[index].to(best)",
        "action[index].to(best)",
        CERTIFICATE,
    ),
    Fault(
        "a certificate of independent samples",
        "latentflow/transport/certificate.py",
        "_Pairs(start[index].to(best), end[index].to(best),",
        "_Pairs(start[index].to(best), end[index].roll(1, 0).to(best),",
        CERTIFICATE,
    ),
    Fault(
        "the sign of the dual",
        "latentflow/transport/certificate.py",
        "return 2 * pairs.elapsed * values",
        "return -2 * pairs.elapsed * values",
        CERTIFICATE,
    ),
    Fault(
        "the factor 2 of the dual missing",
        "latentflow/transport/certificate.py",
        "return 2 * pairs.elapsed * values",
        "return pairs.elapsed * values",
        CERTIFICATE,
    ),
    Fault(
        "a bootstrap over the resamples",
        "latentflow/transport/certificate.py",
        "costs, distances = cost[index].mean(-1),",
        "costs, distances = cost[index].mean(0, keepdim=True).expand(resamples, -1)[:, 0],",
        CERTIFICATE,
    ),
    Fault(
        "a bootstrap of the cost without its partner",
        "latentflow/transport/certificate.py",
        "squared + (values - values.mean())[index].mean(-1)",
        "squared + (values - values.mean()).roll(1)[index].mean(-1)",
        CERTIFICATE,
    ),
    Fault(
        "a supremum for the infimum of a c-transform",
        "latentflow/transport/certificate.py",
        "(cost - psi).amin(-1)",
        "(cost - psi).amax(-1)",
        CERTIFICATE,
    ),
    Fault(
        "the cost of the dual not squared",
        "latentflow/transport/certificate.py",
        '(torch.cdist(part, x, compute_mode="donot_use_mm_for_euclid_dist").square() for part in parts)',
        '(torch.cdist(part, x, compute_mode="donot_use_mm_for_euclid_dist") for part in parts)',
        CERTIFICATE,
    ),
    Fault(
        "1/2 missing in the cost of a plan",
        "latentflow/transport/wasserstein.py",
        "unsqueeze(-2) / 2 - starts",
        "unsqueeze(-2) - starts",
        DISTANCES,
    ),
    Fault(
        "points of weight zero that take part",
        "latentflow/transport/sinkhorn.py",
        "kept = weights > 0",
        "kept = weights >= 0",
        DISTANCES,
    ),
)

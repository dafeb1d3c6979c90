"""Faults in potentials and their own derivatives."""

from __future__ import annotations

from mutants.fault import Fault

LAYERED = ("calculus/test_layered_jets.py", "potentials/test_mlp.py")

FAULTS = (
    Fault(
        "the second derivative of tanh halved",
        "potentials/activation.py",
        "return value, first, -2 * value * first",
        "return value, first, -value * first",
        ("potentials/test_activation.py", *LAYERED),
    ),
    Fault(
        "curvature of the last layer only",
        "potentials/layer_sum.py",
        "zip(self.curvatures, tangents, strict=True)]\n        return add_up(forms)",
        "zip(self.curvatures, tangents, strict=True)]\n        return forms[-1]",
        LAYERED,
    ),
    Fault(
        "the last layer left out of the Laplacian",
        "potentials/layer_sum.py",
        "return total + (last * squared_directions(directions, gain, self.links[-1])).sum(-1)",
        "return total",
        LAYERED,
    ),
    Fault(
        "one gain missing in the matrix that is carried",
        "potentials/layer_sum.py",
        "carried = gain.unsqueeze(-1) * gram.unsqueeze(-3) * gain.unsqueeze(-2)",
        "carried = gram.unsqueeze(-3) * gain.unsqueeze(-2)",
        LAYERED,
    ),
    Fault(
        "factor 2 missing in a backward pass by hand",
        "potentials/squares.py",
        "for x in (gains, 2 * grad))",
        "for x in (gains, grad))",
        ("calculus/test_squares.py",),
    ),
    Fault(
        "a residual step without its length",
        "potentials/layered.py",
        "else h + self.residual * own",
        "else h + own",
        ("potentials/test_resnet.py",),
    ),
    Fault(
        "the acceleration of the time features left out",
        "potentials/layered.py",
        "second_time = terms.quadratic(tangents).squeeze(-1) + _along(pulls, bends)",
        "second_time = terms.quadratic(tangents).squeeze(-1)",
        ("calculus/test_layered_jets.py",),
    ),
    Fault(
        "the derivative of time features without their frequency",
        "potentials/time_embedding.py",
        "derivative = torch.cat([self.frequencies * cos, -self.frequencies * sin], dim=-1)",
        "derivative = torch.cat([cos, -sin], dim=-1)",
        ("potentials/test_time_embedding.py", *LAYERED),
    ),
    Fault(
        "a matrix taken for symmetric",
        "potentials/quadratic.py",
        "product = z @ matrix\n",
        "product = z @ self.matrix\n",
        ("potentials/test_quadratic.py",),
    ),
    Fault(
        "1/2 missing in the value of a quadratic",
        "potentials/quadratic.py",
        "return ((z @ self.symmetric / 2 + self.vector) * z).sum(-1) + self.constant",
        "return ((z @ self.symmetric + self.vector) * z).sum(-1) + self.constant",
        ("potentials/test_quadratic.py", "calculus/test_batches.py"),
    ),
    Fault(
        "the mean of potentials for their sum",
        "potentials/algebra.py",
        "return torch.stack([term(z, t) for term in self.terms]).sum(0)",
        "return torch.stack([term(z, t) for term in self.terms]).mean(0)",
        ("potentials/test_algebra.py",),
    ),
    Fault(
        "grouped samples not put back in order",
        "potentials/grouping.py",
        "flat = torch.empty_like(sorted_samples).index_copy(0, self.order, sorted_samples)",
        "flat = sorted_samples",
        ("potentials/test_bank.py", "potentials/test_switched.py"),
    ),
    Fault(
        "a switch one instant late",
        "potentials/switched.py",
        "times, right=True)",
        "times, right=False)",
        ("potentials/test_switched.py",),
    ),
    Fault(
        "a clock restarted at the wrong switch",
        "potentials/switched.py",
        "torch.cat([times.new_zeros(1), times])[index]",
        "torch.cat([times, times[-1:]])[index]",
        ("potentials/test_switched.py",),
    ),
)

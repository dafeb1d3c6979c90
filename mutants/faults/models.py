"""Faults in priors, bounds and networks."""

from __future__ import annotations

from mutants.fault import Fault

PRIORS = ("priors/test_priors.py",)
MIXTURES = ("priors/test_mixture_priors.py",)
BOUNDS = ("vae/test_vae_linear_gaussian.py", "vae/test_vae_objective.py")

FAULTS = (
    Fault(
        "variance 1 + D t of the diffusion prior",
        "priors/diffused.py",
        "heat_flow(start, 2 * self",
        "heat_flow(start, self",
        PRIORS,
    ),
    Fault(
        "a diffusivity without its softplus",
        "priors/diffused.py",
        "return nn.functional.softplus(self.raw)",
        "return self.raw",
        PRIORS,
    ),
    Fault(
        "the diffusivity of the first field for all",
        "priors/diffused.py",
        "2 * self.diffusivity[index] * time",
        "2 * self.diffusivity[0 * index] * time",
        PRIORS,
    ),
    Fault(
        "standard deviations that grow in place of variances",
        "priors/heat.py",
        "scale = (normal.variance + variance.unsqueeze(-1)).sqrt()",
        "scale = normal.stddev + variance.unsqueeze(-1)",
        PRIORS,
    ),
    Fault(
        "a variance for a standard deviation in the prior",
        "priors/heat.py",
        "scale = (normal.variance + variance.unsqueeze(-1)).sqrt()",
        "scale = normal.variance + variance.unsqueeze(-1)",
        PRIORS,
    ),
    Fault(
        "a variance added to every entry of a covariance",
        "priors/heat.py",
        "variance[..., None, None] * eye",
        "variance[..., None, None]",
        MIXTURES,
    ),
    Fault(
        "times along the axis of the components",
        "priors/heat.py",
        "heat_flow(distribution.component_distribution, variance.unsqueeze(-1))",
        "heat_flow(distribution.component_distribution, variance)",
        MIXTURES,
    ),
    Fault(
        "-log N missing in the Vamp prior",
        "priors/vamp.py",
        "return MixtureSameFamily(Categorical(logits=logits), components)",
        "mixture = MixtureSameFamily(Categorical(logits=logits), components)\n"
        "        own = mixture.log_prob\n"
        "        mixture.log_prob = lambda z: own(z) + logits.new_tensor(len(logits)).log()\n"
        "        return mixture",
        MIXTURES,
    ),
    Fault(
        "pseudo-inputs outside of (0, 1)",
        "priors/vamp.py",
        "return self.raw.sigmoid()",
        "return self.raw",
        MIXTURES,
    ),
    Fault(
        "a log-scale read as a log-variance",
        "priors/mixture.py",
        "Normal(self.mean, self.log_scale.exp())",
        "Normal(self.mean, (self.log_scale / 2).exp())",
        MIXTURES,
    ),
    Fault(
        "weights of a mixture that do not enter",
        "priors/mixture.py",
        "MixtureSameFamily(Categorical(logits=self.logits), components)",
        "MixtureSameFamily(Categorical(logits=0 * self.logits), components)",
        MIXTURES,
    ),
    Fault(
        "the reversed KL",
        "vae/divergence.py",
        "return kl_divergence(posterior, prior)",
        "return kl_divergence(prior, posterior)",
        BOUNDS,
    ),
    Fault(
        "the reversed KL by the sample",
        "vae/divergence.py",
        "return log_q - prior.log_prob(z)",
        "return prior.log_prob(z) - log_q",
        ("vae/test_vae_priors.py", *BOUNDS),
    ),
    Fault(
        "the prior at the start of the path",
        "vae/bounds.py",
        "k=k).log_prob(path.z[1:])",
        "k=k).log_prob(path.z[:-1])",
        BOUNDS,
    ),
    Fault(
        "the prior of the time before",
        "vae/bounds.py",
        "prior(t=path.times[1:].unsqueeze(-1), k=k)",
        "prior(t=path.times[:-1].unsqueeze(-1), k=k)",
        BOUNDS,
    ),
    Fault(
        "the density of the wrong sign in the bound",
        "vae/bounds.py",
        "posterior.log_prob(path.z[0]) - path.log_det",
        "posterior.log_prob(path.z[0]) + path.log_det",
        BOUNDS,
    ),
    Fault(
        "a Jacobian in the joint bound",
        "vae/bounds.py",
        "return torch.cat([first.unsqueeze(0), first.new_zeros(len(path.times) - 1, len(first))])",
        "return first.expand(len(path.times), -1)",
        BOUNDS,
    ),
    Fault(
        "a sample with the variance for its standard deviation",
        "vae/sampling.py",
        "return base.loc + base.scale * noise",
        "return base.loc + base.scale.square() * noise",
        ("vae/test_vae_generate.py",),
    ),
    Fault(
        "a log-variance read as a log standard deviation",
        "vae/networks.py",
        "scale = (log_variance / 2).exp()",
        "scale = log_variance.exp()",
        ("vae/test_vae_generate.py",),
    ),
    Fault(
        "the bound minimised",
        "vae/flow_vae.py",
        "self.initial_weight * initial - bound",
        "self.initial_weight * initial + bound",
        BOUNDS,
    ),
)

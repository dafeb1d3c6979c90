"""Faults in priors, bounds and networks."""

from __future__ import annotations

from tests.mutation.fault import Fault

PRIORS = ("latentflow/priors/test_priors.py",)
MIXTURES = ("latentflow/priors/test_mixture_priors.py",)
BOUNDS = ("latentflow/vae/test_vae_linear_gaussian.py", "latentflow/vae/test_vae_objective.py")
LABELS = ("latentflow/vae/test_label_posterior.py", "latentflow/vae/test_assignment.py")
ASSIGNMENTS = ("latentflow/vae/test_assignment.py",)
SOME_FRAMES = ("latentflow/vae/test_decoded_frames.py",)
DIFFUSING = ("latentflow/vae/test_stochastic_bound.py",)

FAULTS = (
    Fault(
        "variance 1 + D t of the diffusion prior",
        "latentflow/priors/diffusion.py",
        "heat_flow(start, 2 * self",
        "heat_flow(start, self",
        PRIORS,
    ),
    Fault(
        "a diffusivity without its softplus",
        "latentflow/priors/diffusion.py",
        "return nn.functional.softplus(self.raw)",
        "return self.raw",
        PRIORS,
    ),
    Fault(
        "the diffusivity of the first field for all",
        "latentflow/priors/diffusion.py",
        "2 * self.diffusivity[index] * time",
        "2 * self.diffusivity[0 * index] * time",
        PRIORS,
    ),
    Fault(
        "standard deviations that grow in place of variances",
        "latentflow/priors/diffusion.py",
        "scale = (normal.variance + variance.unsqueeze(-1)).sqrt()",
        "scale = normal.stddev + variance.unsqueeze(-1)",
        PRIORS,
    ),
    Fault(
        "a variance for a standard deviation in the prior",
        "latentflow/priors/diffusion.py",
        "scale = (normal.variance + variance.unsqueeze(-1)).sqrt()",
        "scale = normal.variance + variance.unsqueeze(-1)",
        PRIORS,
    ),
    Fault(
        "a variance added to every entry of a covariance",
        "latentflow/priors/diffusion.py",
        "variance[..., None, None] * eye",
        "variance[..., None, None]",
        MIXTURES,
    ),
    Fault(
        "times along the axis of the components",
        "latentflow/priors/diffusion.py",
        "heat_flow(distribution.component_distribution, variance.unsqueeze(-1))",
        "heat_flow(distribution.component_distribution, variance)",
        MIXTURES,
    ),
    Fault(
        "-log N missing in the Vamp prior",
        "latentflow/priors/mixture.py",
        "return Mixture(Categorical(logits=logits), components, validate_args=False)",
        "mixture = Mixture(Categorical(logits=logits), components, validate_args=False)\n"
        "        own = mixture.log_prob\n"
        "        mixture.log_prob = lambda z: own(z) + logits.new_tensor(len(logits)).log()\n"
        "        return mixture",
        MIXTURES,
    ),
    Fault(
        "pseudo-inputs outside of (0, 1)",
        "latentflow/priors/mixture.py",
        "return self.raw.sigmoid()",
        "return self.raw",
        MIXTURES,
    ),
    Fault(
        "a log-scale read as a log-variance",
        "latentflow/priors/mixture.py",
        "Normal(self.mean, self.log_scale.exp(), validate_args=False)",
        "Normal(self.mean, (self.log_scale / 2).exp(), validate_args=False)",
        MIXTURES,
    ),
    Fault(
        "weights of a mixture that do not enter",
        "latentflow/priors/mixture.py",
        "Mixture(Categorical(logits=self.logits), components, validate_args=False)",
        "Mixture(Categorical(logits=0 * self.logits), components, validate_args=False)",
        MIXTURES,
    ),
    Fault(
        "the reversed KL",
        "latentflow/vae/bounds.py",
        "return kl_divergence(posterior, prior)",
        "return kl_divergence(prior, posterior)",
        BOUNDS,
    ),
    Fault(
        "the reversed KL by the sample",
        "latentflow/vae/bounds.py",
        "return log_q - prior.log_prob(z)",
        "return prior.log_prob(z) - log_q",
        ("latentflow/vae/test_vae_priors.py", *BOUNDS),
    ),
    Fault(
        "the prior at the start of the trajectory",
        "latentflow/vae/bounds.py",
        "k=k).log_prob(trajectory.z[1:])",
        "k=k).log_prob(trajectory.z[:-1])",
        BOUNDS,
    ),
    Fault(
        "the prior of the time before",
        "latentflow/vae/bounds.py",
        "times = trajectory.times[1:].reshape",
        "times = trajectory.times[:-1].reshape",
        BOUNDS,
    ),
    Fault(
        "the density of the wrong sign in the bound",
        "latentflow/vae/bounds.py",
        "posterior.log_prob(trajectory.z[0]) - trajectory.log_det",
        "posterior.log_prob(trajectory.z[0]) + trajectory.log_det",
        BOUNDS,
    ),
    Fault(
        "a Jacobian in the joint bound",
        "latentflow/vae/bounds.py",
        "return torch.cat([first, first.new_zeros(len(trajectory.times) - 1, *first.shape[1:])])",
        "return first.expand(len(trajectory.times), *first.shape[1:])",
        BOUNDS,
    ),
    Fault(
        "a sample with the variance for its standard deviation",
        "latentflow/vae/bounds.py",
        "return base.loc + base.scale * noise",
        "return base.loc + base.scale.square() * noise",
        ("latentflow/vae/test_vae_generate.py",),
    ),
    Fault(
        "a log-variance read as a log standard deviation",
        "latentflow/vae/networks.py",
        "scale = (log_variance / 2).exp()",
        "scale = log_variance.exp()",
        ("latentflow/vae/test_vae_generate.py",),
    ),
    Fault(
        "the bound minimized",
        "latentflow/vae/flow_vae.py",
        "terms.residual + collapse - bound",
        "terms.residual + collapse + bound",
        BOUNDS,
    ),
    Fault(
        "the noise of a label drawn twice",
        "latentflow/vae/label_posterior.py",
        "soft = (noisy / self.temperature).softmax(-1)",
        "again = torch.empty_like(noisy).exponential_(generator=generator).log()\n"
        "        soft = ((posterior.logits - again) / self.temperature).softmax(-1)",
        LABELS,
    ),
    Fault(
        "a temperature that changes the law of the label",
        "latentflow/vae/label_posterior.py",
        "noisy = posterior.logits - uniform.log()",
        "noisy = posterior.logits / self.temperature - uniform.log()",
        LABELS,
    ),
    Fault(
        "a label without a gradient",
        "latentflow/vae/label_posterior.py",
        "return Mixed(hard + (soft - soft.detach()))",
        "return Mixed(hard)",
        LABELS,
    ),
    Fault(
        "the mean divergence of the labels for that of their mean",
        "latentflow/vae/label_posterior.py",
        "_divergence_from_uniform(logits.logsumexp(0) - math.log(len(logits)))",
        "_divergence_from_uniform(logits).mean()",
        LABELS,
    ),
    Fault(
        "0 log 0 of a label that is certain",
        "latentflow/vae/label_posterior.py",
        "return (log_q.exp() * log_q).sum(-1)",
        "return (log_q.exp() * log_q.exp().log()).sum(-1)",
        LABELS,
    ),
    Fault(
        "the mean responsibility of the batch",
        "latentflow/vae/bounds.py",
        "return bank.mix(self.responsibilities)",
        "return bank.mix(self.responsibilities.mean(0))",
        ASSIGNMENTS,
    ),
    Fault(
        "densities of all labels alike",
        "latentflow/vae/bounds.py",
        "return (torch.stack(each, -1) * self.responsibilities).sum(-1)",
        "return torch.stack(each, -1).mean(-1)",
        ASSIGNMENTS,
    ),
    Fault(
        "the sum over labels divided by their number",
        "latentflow/vae/bounds.py",
        "return self.probabilities.mT * self.probabilities.shape[-1]",
        "return self.probabilities.mT",
        ASSIGNMENTS,
    ),
    Fault(
        "the residual outside of the sum over labels",
        "latentflow/vae/flow_vae.py",
        "weights = assignment.weights()",
        "weights = None",
        ASSIGNMENTS,
    ),
    Fault(
        "the divergence of the label left out",
        "latentflow/vae/flow_vae.py",
        "bound = -(reconstruction.sum() + kl.sum() + label_kl)",
        "bound = -(reconstruction.sum() + kl.sum())",
        ASSIGNMENTS,
    ),
    Fault(
        "some frames taken for all",
        "latentflow/vae/flow_vae.py",
        ".log_prob(some_x) * (len(z) / count)",
        ".log_prob(some_x)",
        SOME_FRAMES,
    ),
    Fault(
        "the same frames drawn for all sequences",
        "latentflow/vae/flow_vae.py",
        "lots = torch.rand(z.shape[:-1], generator=generator, device=z.device)",
        "lots = torch.rand(len(z), generator=generator).reshape(-1, *(1,) * (z.ndim - 2)).expand(z.shape[:-1])",
        SOME_FRAMES,
    ),
    Fault(
        "the log-determinant of the prior of the wrong sign in the paper's densities",
        "latentflow_experiments/song2023.py",
        "trajectory.log_det[1:] + spread",
        "trajectory.log_det[1:] - spread",
        ("experiments/test_song2023.py",),
    ),
    Fault(
        "some frames in evaluation",
        "latentflow/vae/flow_vae.py",
        "self.decoded_frames if self.training else None",
        "self.decoded_frames",
        SOME_FRAMES,
    ),
    Fault(
        "D for 2 D in the cost of a step",
        "latentflow/vae/bounds.py",
        "trajectory.drift.square().sum(-1) / (4 * diffusivity)",
        "trajectory.drift.square().sum(-1) / (2 * diffusivity)",
        DIFFUSING,
    ),
    Fault(
        "D for 2 D in the noise of a step",
        "latentflow/vae/bounds.py",
        "(2 * self.diffusion).sqrt() * noise",
        "self.diffusion.sqrt() * noise",
        DIFFUSING,
    ),
    Fault(
        "a correction without its forecast",
        "latentflow/vae/bounds.py",
        "self.gain * (future[n] - step.z[1])",
        "self.gain * (future[n] - z[-1])",
        DIFFUSING,
    ),
    Fault(
        "a clock that restarts in every noisy step",
        "latentflow/vae/bounds.py",
        "start=float(n), log_det=None",
        "start=0.0, log_det=None",
        DIFFUSING,
    ),
    Fault(
        "grey pixels without their constant",
        "latentflow/vae/networks.py",
        "Events(ContinuousBernoulli(logits",
        "Events(Bernoulli(logits",
        ("latentflow/vae/test_likelihoods.py",),
    ),
    Fault(
        "a flow that is always in training mode",
        "latentflow/vae/flow_vae.py",
        "flow.training = self.training",
        "flow.training = True",
        ("latentflow/vae/test_vae_dynamics.py", "latentflow/vae/test_vae_objective.py"),
    ),
    Fault(
        "pixels of any range",
        "latentflow/vae/flow_vae.py",
        "if not (low >= 0 and high <= 1):",
        "if low > high:",
        ("latentflow/vae/test_vae_field_cases.py",),
    ),
)

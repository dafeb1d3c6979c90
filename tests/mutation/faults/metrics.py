"""Faults of the metrics that any encoder and decoder can be measured by."""

from __future__ import annotations

from tests.mutation.fault import Fault

CONSISTENCY, INFORMATION = (f"latentflow_experiments/metrics/{name}.py" for name in ("consistency", "information"))
OF_CONSISTENCY, OF_INFORMATION = ("experiments/test_consistency.py",), ("experiments/test_information.py",)

FAULTS = (
    Fault(
        "consistency: trained steps among those beyond",
        CONSISTENCY,
        "return sum(self.output[self.trained :]) / sum(self.static[self.trained :])",
        "return sum(self.output) / sum(self.static)",
        OF_CONSISTENCY,
    ),
    Fault(
        "consistency: the way back compared with the frames the other way round",
        CONSISTENCY,
        "sum_per_image(decoded[:, :-1] - truth),",
        "sum_per_image(decoded[:, :-1].flip(1) - truth),",
        OF_CONSISTENCY,
    ),
    Fault(
        "consistency: two orders over fewer frames than were trained",
        CONSISTENCY,
        "states[steps:].expand(data.steps - steps, -1)",
        "states[steps:].expand(0, -1)",
        OF_CONSISTENCY,
    ),
    Fault(
        "consistency: the second flow from the start",
        CONSISTENCY,
        "motion.follow(middle, order[1], half)",
        "motion.follow(z0, order[1], half)",
        OF_CONSISTENCY,
    ),
    Fault(
        "consistency: a way back by steps of Euler in place of their inverse",
        "latentflow_experiments/methods/method.py",
        "return self._flow(k).inverse(z, range(steps + 1), Euler(log_det=None)).z.flip(0)",
        "return self._flow(k).rollout(z, steps, start=steps, dt=-1.0, log_det=None).z.flip(0)",
        OF_CONSISTENCY,
    ),
    Fault(
        "information: modularity of factors in place of codes",
        INFORMATION,
        "return InfoMEC(_unevenness(kept), sum(shares) / len(shares), _unevenness(kept.T), information, active)",
        "return InfoMEC(_unevenness(kept.T), sum(shares) / len(shares), _unevenness(kept), information, active)",
        OF_INFORMATION,
    ),
    Fault(
        "information: codes that hardly vary take part",
        INFORMATION,
        "active = (spread > 0) & (spread >= PRUNED * spread.max())",
        "active = spread >= 0",
        OF_INFORMATION,
    ),
    Fault(
        "information: explicitness of a curve that is not made to fall",
        INFORMATION,
        "list(accumulate((min(loss, baseline) for loss in losses), min))",
        "[min(loss, baseline) for loss in losses]",
        OF_INFORMATION,
    ),
    Fault(
        "baselines: frames drawn in an evaluation too",
        "latentflow_experiments/methods/autoencoder.py",
        "if not self.training or self.drawn_frames is None or self.drawn_frames >= count:",
        "if self.drawn_frames is None or self.drawn_frames >= count:",
        ("experiments/test_baselines.py",),
    ),
)

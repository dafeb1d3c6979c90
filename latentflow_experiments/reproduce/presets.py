"""The budgets of a reproduction: how large its models are, how long they train, and how much is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from latentflow_experiments.configuration import Budget, TrainConfig
from latentflow_experiments.evaluation import MeasureConfig

SMALL, MIDDLE, LARGE = "small", "middle", "large"
SIDES = {"digits": SMALL, "mnist": SMALL, "shapes3d": MIDDLE, "falcor3d": LARGE, "isaac3d": LARGE}
"""The size of the images of a data set."""

BALANCE = 100.0
"""The weight against collapse of the published runs; their folders are named by it, also where nothing is inferred."""


@dataclass(frozen=True)
class Preset:
    """A budget.

    Attributes:
        about: What it is for, in a sentence.
        training: The budget of a run, by the size of the images.
        run: Settings of every run.
        model: Settings of every model.
        latents: The number of latent coordinates by data set, where it is not the default.
        measured: How much is measured of a run.
        images: The images of a stand-in, by data set; None for all.
        tuned: Settings of the runs of a method, where others than the defaults were better on validation images of
            MNIST.
        likelihoods: The images of each transformation whose likelihood is measured, by the size of images, where they
            are not those of ``measured``: an image of 64 pixels takes 3 seconds of a core.
        balances: The weight against the collapse of inferred transformations, by the size of images, where it is not
            100: some 0.01 for each number of a sequence. With 100 all sequences of rooms were given to one flow after
            1,250 steps; with ten times as much each was given to its own.
        transformations: Those of the sequences of a stand-in, where it is too small for all: the topographic VAE takes
            sequences of three frames at least.
    """

    about: str
    training: Mapping[str, Budget]
    run: Mapping[str, Any]
    model: Mapping[str, Any]
    latents: Mapping[str, int]
    measured: MeasureConfig
    images: Mapping[str, int | None]
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    likelihoods: Mapping[str, int] = field(default_factory=dict)
    balances: Mapping[str, float] = field(default_factory=dict)
    transformations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def budget(self, dataset: str) -> Budget:
        """Return the budget of a run on a data set."""
        return self.training[SIDES[dataset]]

    def measure(self, dataset: str) -> MeasureConfig:
        """Return how much is measured of a run on a data set."""
        return replace(self.measured, images=self.likelihoods.get(SIDES[dataset], self.measured.images))

    def apply(self, config: TrainConfig) -> TrainConfig:
        """Return a configuration with the settings of the budget; what it says itself of its latents is kept."""
        default = TrainConfig(config.dataset).model.dim
        dim = self.latents.get(config.dataset, default) if config.model.dim == default else config.model.dim
        run = {**self.tuned.get(config.model.method, {}), **self.run}
        balances = self.balances if config.model.supervision == "weak" else {}
        model = {**self.model, "balance": balances.get(SIDES[config.dataset], BALANCE)}
        if config.dataset in self.transformations:
            run["sequences"] = replace(config.sequences, transformations=self.transformations[config.dataset])
        return replace(config, **run, model=replace(config.model, **model, dim=dim))


PRESETS: Mapping[str, Preset] = {
    "smoke": Preset(
        about="a few steps of small models, which say whether everything runs and nothing else",
        training={SMALL: Budget(steps=20), MIDDLE: Budget(steps=6), LARGE: Budget(steps=3)},
        run={"batch_size": 8, "validations": 0},
        model={"width": 64},
        latents={},
        measured=MeasureConfig(images=4, samples=(1, 10), pairs=30, epochs=1),
        images={"shapes3d": 3000, "falcor3d": 3000, "isaac3d": 3000, "dsprites": None},
        transformations={"isaac3d": ("robot_x-move", "robot_y-move", "lighting_y-dir")},
    ),
    "laptop": Preset(
        about="the networks of the library, at the rate or batch that was best for each method on validation images",
        training={
            SMALL: Budget(cpu_minutes=5),
            MIDDLE: Budget(cpu_minutes=15),
            LARGE: Budget(cpu_minutes=60),
        },
        run={},
        model={},
        latents={},
        measured=MeasureConfig(),
        likelihoods={MIDDLE: 10, LARGE: 3},
        balances={MIDDLE: 1000.0, LARGE: 2500.0},
        images={"shapes3d": 96_000, "falcor3d": 24_000, "isaac3d": 120_000, "dsprites": None},
        tuned={
            method: {"batch_size": 32} for method in ("vae", "beta-vae", "factor-vae", "slow-vae", "poflow", "flow")
        },
    ),
    "paper": Preset(
        about="the published networks, learning rate, batch and number of steps, for a GPU",
        training={SMALL: Budget(steps=90_000), MIDDLE: Budget(steps=90_000), LARGE: Budget(steps=100_000)},
        run={"batch_size": 128, "learning_rate": 1e-4},
        model={"network": "song2023", "likelihood": "bernoulli", "decoded_frames": None},
        latents={"mnist": 324, "shapes3d": 226, "falcor3d": 324, "isaac3d": 324},
        measured=MeasureConfig(images=500, pairs=13_334),
        balances={MIDDLE: 1000.0, LARGE: 2500.0},
        images={"shapes3d": None, "falcor3d": None, "isaac3d": None, "dsprites": None},
    ),
}
"""The budgets, by name."""

"""The methods that the paper compares with: each one file, with the networks of the flow-factorised VAE."""

from latentflow.experiments.baselines.autoencoder import Autoencoder as Autoencoder
from latentflow.experiments.baselines.beta_vae import BetaVAE as BetaVAE
from latentflow.experiments.baselines.factor_vae import FactorVAE as FactorVAE
from latentflow.experiments.baselines.poflow import PoFlow as PoFlow
from latentflow.experiments.baselines.slow_vae import SlowVAE as SlowVAE
from latentflow.experiments.baselines.tvae import TVAE as TVAE
from latentflow.experiments.baselines.vae import VAE as VAE

"""The methods that the paper compares with: each one file, with the networks of the flow-factorised VAE."""

from latentflow_experiments.baselines.autoencoder import Autoencoder as Autoencoder
from latentflow_experiments.baselines.beta_vae import BetaVAE as BetaVAE
from latentflow_experiments.baselines.factor_vae import FactorVAE as FactorVAE
from latentflow_experiments.baselines.poflow import PoFlow as PoFlow
from latentflow_experiments.baselines.slow_vae import SlowVAE as SlowVAE
from latentflow_experiments.baselines.tvae import TVAE as TVAE
from latentflow_experiments.baselines.vae import VAE as VAE

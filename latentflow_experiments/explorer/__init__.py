"""A page with which a reader holds the flows of a run in the hand: one HTML file, without a server."""

from latentflow_experiments.explorer.page import explore as explore
from latentflow_experiments.explorer.serving import serve as serve

__all__ = ["explore", "serve"]

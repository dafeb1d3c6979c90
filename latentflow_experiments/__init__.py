"""Data, training and evaluation around the latentflow library (installed by the ``experiments`` extra)."""

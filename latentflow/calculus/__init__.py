"""The calculus of scalar fields: jets, operators and estimators."""

from latentflow.calculus.carried import UnknownOperationError as UnknownOperationError
from latentflow.calculus.estimators import Estimator as Estimator
from latentflow.calculus.estimators import Exact as Exact
from latentflow.calculus.estimators import FixedProbes as FixedProbes
from latentflow.calculus.estimators import Hutchinson as Hutchinson
from latentflow.calculus.estimators import HutchPlusPlus as HutchPlusPlus
from latentflow.calculus.estimators import Noise as Noise
from latentflow.calculus.jets import Derivative as Derivative
from latentflow.calculus.jets import Field as Field
from latentflow.calculus.jets import InnerHessian as InnerHessian
from latentflow.calculus.jets import Jet as Jet
from latentflow.calculus.jets import JetRequest as JetRequest
from latentflow.calculus.jets import SupportsJet as SupportsJet
from latentflow.calculus.jets import Time as Time
from latentflow.calculus.jets import autodiff_jet as autodiff_jet
from latentflow.calculus.jets import evaluate_jet as evaluate_jet
from latentflow.calculus.jets import forward_jet as forward_jet
from latentflow.calculus.operators import LaplacianEstimate as LaplacianEstimate
from latentflow.calculus.operators import SamplingEstimator as SamplingEstimator
from latentflow.calculus.operators import estimate_laplacian as estimate_laplacian
from latentflow.calculus.operators import gradient as gradient
from latentflow.calculus.operators import gradient_time_derivative as gradient_time_derivative
from latentflow.calculus.operators import hessian as hessian
from latentflow.calculus.operators import hessian_vector_product as hessian_vector_product
from latentflow.calculus.operators import jet as jet
from latentflow.calculus.operators import laplacian as laplacian
from latentflow.calculus.operators import second_time_derivative as second_time_derivative
from latentflow.calculus.positive import PositiveParameter as PositiveParameter

__all__ = [
    "Derivative",
    "Estimator",
    "Exact",
    "Field",
    "FixedProbes",
    "HutchPlusPlus",
    "Hutchinson",
    "InnerHessian",
    "Jet",
    "JetRequest",
    "LaplacianEstimate",
    "Noise",
    "PositiveParameter",
    "SamplingEstimator",
    "SupportsJet",
    "Time",
    "UnknownOperationError",
    "autodiff_jet",
    "estimate_laplacian",
    "evaluate_jet",
    "forward_jet",
    "gradient",
    "gradient_time_derivative",
    "hessian",
    "hessian_vector_product",
    "jet",
    "laplacian",
    "second_time_derivative",
]

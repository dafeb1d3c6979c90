"""The calculus of scalar fields: jets, operators and estimators."""

from latentflow.calculus.arguments import Field as Field
from latentflow.calculus.arguments import Time as Time
from latentflow.calculus.arguments import check_hidden as check_hidden
from latentflow.calculus.arguments import check_index as check_index
from latentflow.calculus.arguments import check_points as check_points
from latentflow.calculus.arguments import expand_time as expand_time
from latentflow.calculus.arguments import expand_weight as expand_weight
from latentflow.calculus.autodiff import autodiff_jet as autodiff_jet
from latentflow.calculus.estimators import Estimator as Estimator
from latentflow.calculus.estimators import Exact as Exact
from latentflow.calculus.estimators import Hutchinson as Hutchinson
from latentflow.calculus.jets import Jet as Jet
from latentflow.calculus.jets import JetRequest as JetRequest
from latentflow.calculus.operators import evaluate_jet as evaluate_jet
from latentflow.calculus.operators import gradient as gradient
from latentflow.calculus.operators import hessian as hessian
from latentflow.calculus.operators import jet as jet
from latentflow.calculus.operators import laplacian as laplacian

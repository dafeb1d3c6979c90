"""The methods that are compared, as the metrics see them."""

from latentflow_experiments.methods.matching import Matching as Matching
from latentflow_experiments.methods.matching import Recovery as Recovery
from latentflow_experiments.methods.matching import infer_labels as infer_labels
from latentflow_experiments.methods.matching import match as match
from latentflow_experiments.methods.matching import measure_recovery as measure_recovery
from latentflow_experiments.methods.method import AlongFlow as AlongFlow
from latentflow_experiments.methods.method import Method as Method
from latentflow_experiments.methods.single_dimension import SingleDimension as SingleDimension
from latentflow_experiments.methods.single_dimension import Static as Static
from latentflow_experiments.methods.single_dimension import Traversal as Traversal
from latentflow_experiments.methods.single_dimension import search_traversals as search_traversals
from latentflow_experiments.methods.trained import Choice as Choice
from latentflow_experiments.methods.trained import choose as choose
from latentflow_experiments.methods.trained import method_of as method_of

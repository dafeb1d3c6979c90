"""The methods that are compared, as the metrics see them."""

from latentflow.experiments.methods.matching import Matching as Matching
from latentflow.experiments.methods.matching import Recovery as Recovery
from latentflow.experiments.methods.matching import infer_labels as infer_labels
from latentflow.experiments.methods.matching import match as match
from latentflow.experiments.methods.matching import measure_recovery as measure_recovery
from latentflow.experiments.methods.method import AlongFlow as AlongFlow
from latentflow.experiments.methods.method import Method as Method
from latentflow.experiments.methods.single_dimension import SingleDimension as SingleDimension
from latentflow.experiments.methods.single_dimension import Static as Static
from latentflow.experiments.methods.single_dimension import Traversal as Traversal
from latentflow.experiments.methods.single_dimension import search_traversals as search_traversals
from latentflow.experiments.methods.trained import Choice as Choice
from latentflow.experiments.methods.trained import choose as choose
from latentflow.experiments.methods.trained import method_of as method_of

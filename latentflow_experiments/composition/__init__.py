"""How well flows compose: flows that act after one another, at once, slower or backwards."""

from latentflow_experiments.composition.drives import Backwards as Backwards
from latentflow_experiments.composition.drives import Drive as Drive
from latentflow_experiments.composition.drives import Switched as Switched
from latentflow_experiments.composition.drives import Together as Together
from latentflow_experiments.composition.error import CompositionError as CompositionError
from latentflow_experiments.composition.error import composition_table as composition_table
from latentflow_experiments.composition.error import measure_compositions as measure_compositions
from latentflow_experiments.composition.interaction import Interaction as Interaction
from latentflow_experiments.composition.interaction import interaction_table as interaction_table
from latentflow_experiments.composition.interaction import measure_interactions as measure_interactions
from latentflow_experiments.composition.lists import Composition as Composition
from latentflow_experiments.composition.lists import backwards as backwards
from latentflow_experiments.composition.lists import half_strengths as half_strengths
from latentflow_experiments.composition.lists import superpositions as superpositions
from latentflow_experiments.composition.lists import switchings as switchings
from latentflow_experiments.composition.strips import composition_strips as composition_strips
from latentflow_experiments.composition.strips import draw_composition_strips as draw_composition_strips

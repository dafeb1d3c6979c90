"""How well flows compose: flows that act after one another, at once, slower or backwards."""

from latentflow.experiments.composition.drives import Backwards as Backwards
from latentflow.experiments.composition.drives import Drive as Drive
from latentflow.experiments.composition.drives import Switched as Switched
from latentflow.experiments.composition.drives import Together as Together
from latentflow.experiments.composition.error import CompositionError as CompositionError
from latentflow.experiments.composition.error import composition_table as composition_table
from latentflow.experiments.composition.error import measure_compositions as measure_compositions
from latentflow.experiments.composition.interaction import Interaction as Interaction
from latentflow.experiments.composition.interaction import interaction_table as interaction_table
from latentflow.experiments.composition.interaction import measure_interactions as measure_interactions
from latentflow.experiments.composition.lists import Composition as Composition
from latentflow.experiments.composition.lists import backwards as backwards
from latentflow.experiments.composition.lists import half_strengths as half_strengths
from latentflow.experiments.composition.lists import superpositions as superpositions
from latentflow.experiments.composition.lists import switchings as switchings
from latentflow.experiments.composition.strips import composition_strips as composition_strips
from latentflow.experiments.composition.strips import draw_composition_strips as draw_composition_strips

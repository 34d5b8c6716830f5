"""Ways to a consensus: many clients' predictions for the same examples into one, `--aggregation`.

One paper a file. What a rule needs decides what may stand between clients and server: a weight for
each row, taken from a client's own predictions or examples, goes into a sum, so that secure
aggregation applies; a weight for each client is found by comparing uploads, so that it does not.
"""

from fedkd.consensus.client_filter import ClientFilter, FilteredVariance
from fedkd.consensus.density import Density, DensityERA
from fedkd.consensus.entropy import Entropy, EntropyERA
from fedkd.consensus.expguard import ExpGuard
from fedkd.consensus.mean import EntropyReduction, SimpleAggregation
from fedkd.consensus.rule import NEARNESS, ROW_WEIGHTS, Rule
from fedkd.consensus.variance import Variance, VarianceERA
from kdcore.registry import Registry, members, subclass_of

__all__ = ["NEARNESS", "REGISTRY", "ROW_WEIGHTS", "RULES", "Rule"]

RULES: dict[str, type[Rule]] = {
    "sa": SimpleAggregation,
    "era": EntropyReduction,
    "variance": Variance,
    "variance-era": VarianceERA,
    "entropy": Entropy,
    "entropy-era": EntropyERA,
    "density": Density,
    "density-era": DensityERA,
    "filter": ClientFilter,
    "filter-variance": FilteredVariance,
    "expguard": ExpGuard,
}

REGISTRY: Registry[type[Rule]] = Registry(
    "aggregation",
    members(RULES),
    "kdsim.aggregations",
    subclass_of(Rule),
    "a class derived from fedkd.consensus.Rule",
)

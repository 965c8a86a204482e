"""Metrics that rank samples: plain functions of arrays with one orientation, HIGH = keep first when hard is kept.

`ranking` is what prune makes itself (int64 fixed point); `predictions`, `training` and `geometry` are what a `score`
step makes of a model's predictions, of training runs and of vectors; `registry` names them all.
"""

from curate.pruning.metrics.ranking import by_distance, by_random
from curate.pruning.metrics.registry import METRICS, Metric, metric

__all__ = ["METRICS", "Metric", "by_distance", "by_random", "metric"]

"""All metrics by name: what each needs, its equation and where it is from. docs/metrics.md shows this table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from curate.errors import SpecError
from curate.pruning.metrics import geometry, predictions, training
from curate.pruning.metrics.ranking import by_distance, by_random

Needs = Literal["distance", "draw", "column", "vectors", "predictions", "epochs", "subsets", "scores"]


@dataclass(frozen=True)
class Metric:
    """How a metric scores samples: HIGH is hard, so it is kept first when hard samples are kept."""

    name: str
    needs: Needs
    """distance: of a cluster step, int64; draw: a random number, uint64; column: of an earlier step; vectors: of an
    embed step; predictions, epochs, subsets, scores: tables of the user."""
    score: Callable[..., Any]
    """The function; its docstring says more."""
    budget: Literal["complexity", "global"]
    """complexity: quotas from `allocate` by concept complexity; global: one ranking with a floor per concept."""
    source: str
    """Paper and section."""
    equation: str
    """The score in one line."""
    inputs: tuple[str, ...] = ()
    """What must be there: columns of the user's table or of earlier steps."""
    labels: bool = False
    """Whether the own class of a sample decides."""

    @property
    def in_prune(self) -> bool:
        """Whether `prune` makes the score itself; all others are made by a `score` step."""
        return self.needs in ("distance", "draw")


def clip(clip_score: Any) -> Any:
    """1 - cosine of image and caption: a pair that fits badly is hard. `which: easy` keeps the best pairs."""
    return 1.0 - clip_score


def imported(score: Any, high: bool = True) -> Any:
    """A ready score as it is, or turned round when low means hard."""
    return score if high else -score


SORSCHER = "Sorscher et al. 2022, arXiv 2206.14486"
PAUL = "Paul, Ganguli, Dziugaite 2021, arXiv 2107.07075"
TONEVA = "Toneva et al. 2019, arXiv 1812.05159"
FELDMAN = "Feldman and Zhang 2020, arXiv 2008.03703"
_INFL = "infl(i,j) = P[j right, i in S] - P[j right, i not in S]"
_P, _Y = "probabilities or logits", "label"

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        m.name: m
        for m in (
            Metric(
                "dbp", "distance", by_distance, "complexity", "Abbas et al. 2024, arXiv 2401.04578, section 3",
                "1 - cos(x, c(x)), quotas by concept", ("concept", "distance"),
            ),
            Metric(
                "ssp", "distance", by_distance, "global", f"{SORSCHER}, section 5",
                "1 - cos(x, c(x))", ("concept", "distance"),
            ),
            Metric(
                "random", "draw", by_random, "global", "control of equal size", "hash of (seed, step, uid)", ("uid",)
            ),
            Metric(
                "prototypes", "vectors", geometry.prototypes, "global", f"{SORSCHER}, section 5",
                "1 - cos(x, mean of the own class)", ("vectors", _Y), True,
            ),
            Metric(
                "knn", "vectors", geometry.knn, "global", "Loftsgaarden and Quesenberry 1965",
                "mean of 1 - cos(x, r) over the k nearest r", ("vectors",),
            ),
            Metric(
                "el2n", "predictions", predictions.el2n, "global", f"{PAUL}, definition 2.2",
                "mean over models of norm(p - onehot(y))", (_P, _Y), True,
            ),
            Metric(
                "grand", "predictions", predictions.grand, "global", f"{PAUL}, definition 2.1 (last layer)",
                "mean over models of norm(p - onehot(y)) sqrt(1 + norm(h)^2)", (_P, "features", _Y), True,
            ),
            Metric(
                "margin", "predictions", predictions.margin, "global", f"{SORSCHER}, section 2",
                "mean over models of max over c != y of p_c, minus p_y", (_P, _Y), True,
            ),
            Metric(
                "entropy", "predictions", predictions.entropy, "global", "Coleman et al. 2020, arXiv 1906.11829",
                "mean over models of -sum p ln p", (_P,),
            ),
            Metric(
                "ddd", "predictions", predictions.ddd, "global", "Meding et al. 2022, arXiv 2110.05922",
                "models that are wrong", (_P, _Y), True,
            ),
            Metric(
                "forgetting", "epochs", training.forgetting, "global", f"{TONEVA}, section 3",
                "times right, then wrong; 2^30 when never right", ("epoch", "correct or predicted"),
            ),
            Metric(
                "memorization", "subsets", training.memorization, "global", f"{FELDMAN}, equation 1",
                "P[right, i in S] - P[right, i not in S]", ("model", "in_subset", "correct"),
            ),
            Metric(
                "influence-max", "subsets", training.influence, "global", f"{FELDMAN}, equation 2",
                f"max over j of {_INFL}", ("trainset_mask", "testset_correctness"),
            ),
            Metric(
                "influence-sum-abs", "subsets", training.influence, "global", f"{FELDMAN}, equation 2",
                "sum over j of abs(infl(i,j))", ("trainset_mask", "testset_correctness"),
            ),
            Metric(
                "clip", "column", clip, "global", "Gadre et al. 2023, arXiv 2304.14108, section 3.4 (CLIP score)",
                "1 - clip_score", ("clip_score",),
            ),
            Metric(
                "imported", "scores", imported, "global", f"{SORSCHER} (published scores), or your own",
                "as it stands in the file", ("score",),
            ),
        )
    }
)  # fmt: skip


def metric(name: str) -> Metric:
    """The metric of that name; raises SpecError with the known names."""
    if name not in METRICS:
        raise SpecError(f'there is no metric "{name}"; known are {", ".join(sorted(METRICS))}.')
    return METRICS[name]

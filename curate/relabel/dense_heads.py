"""A classifier taken apart into cells and a linear head, with the proof that the two give its own logits.

    head = dense_head(timm.create_model("resnet50", pretrained=True))
    head.maps(batch)                 # float32 [B, C, H, W]; its mean over cells is the model's own output

What never lives here: flips, scales, ensembles (annotate.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from curate.errors import InputError, ModelError

_EXACT = 1e-4
"""Greatest difference as a share of the greatest logit; for models in half precision `_EXACT_HALF`."""
_EXACT_HALF = 2e-2
_NO_WORK = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten)
_CLASS_TOKEN = "it classifies its class token, which is no mean over cells (timm: global_pool='avg', fc_norm=False)"


@dataclass(frozen=True, eq=False)
class DenseHead:
    """A classifier in two pieces: `features` gives cells [B, d, H, W] of a batch; weight [C, d], bias [C] or None.

    The classifier's own logits must be weight @ mean over cells + bias: `dense_head` checks that, whoever makes one by
    hand promises it. `features` may be any callable; `name` opens error sentences.
    """

    features: Callable[[Tensor], Tensor]
    weight: Tensor
    bias: Tensor | None = None
    name: str = "The classifier"

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or (self.bias is not None and self.bias.shape != self.weight.shape[:1]):
            raise ModelError(
                f"{self.name} has a head with weights {list(self.weight.shape)} and bias "
                f"{None if self.bias is None else list(self.bias.shape)}; wanted [classes, features] and [classes]."
            )

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.weight.shape[0])

    def maps(self, batch: Tensor) -> Tensor:
        """Logits of every cell, float32 [B, C, H, W]; the head is computed in float32.

        Raises InputError for a batch that is none, ModelError when the cells do not fit the head.
        """
        if batch.ndim != 4 or not batch.numel():
            raise InputError(f"A batch has the shape {list(batch.shape)}; wanted images x channels x rows x columns.")
        with torch.inference_mode():
            cells = self.features(batch)
            if cells.ndim != 4 or cells.shape[1] != self.weight.shape[1]:
                raise ModelError(
                    f"{self.name} gives cells {list(cells.shape)}; its head wants {self.weight.shape[1]} features: "
                    "[images, features, rows, columns]."
                )
            logits = torch.einsum("bdhw,cd->bchw", cells.float(), self.weight.detach().float())
            return logits if self.bias is None else logits + self.bias.detach().float()[:, None, None]


@dataclass
class _Trace:
    """What happened between the features and the logits of one pass: tensors, and the modules that did something."""

    features: Tensor | None
    logits: Tensor
    pooled: Tensor | None  # what entered the classifier, [B, d]
    worked: list[tuple[str, nn.Module]]  # leaves between, without the classifier
    pools: list[tuple[str, nn.Module, Tensor]]  # and what entered them


def dense_head(model: nn.Module, size: tuple[int, int] | None = None) -> DenseHead:
    """Take a classifier apart; the model is put into eval mode. `size`: (height, width) of the images of the test.

    A model of timm, or any that has a module of average pooling and a linear layer `fc`, `classifier` or `head`. One
    pass over noise says whether the linear layer is fed with the mean over cells and gives the logits: for cells the
    input of the pooling layer, or what `forward_features` returns, channels first or last, or patch tokens in rows.
    Differences up to 1e-4 of the greatest value are rounding (2e-2 in half precision).

    Raises ModelError, with the layers to blame, when pooling is not by mean over cells, or more than a linear layer
    follows: norms (ConvNeXt), hidden layers (MobileNetV3), class tokens, attention pooling, several classifiers. Also
    for weights that give NaN or infinity, and for images that make a single cell.
    """
    model.eval()
    name = f"The model {type(model).__name__}"
    place, classifier = _classifier(model, name)
    weight, bias = classifier.weight, classifier.bias
    if size is None:
        said: Any = getattr(model, "pretrained_cfg", None) or {}
        size = tuple(int(side) for side in said.get("input_size", (3, 224, 224))[-2:])  # type: ignore[assignment]
    assert size is not None
    noise = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(weight)
    try:
        trace = _follow(model, classifier, noise)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise ModelError(f"{name} does not take images of {size[0]} x {size[1]} pixels: {str(error)[:300]}") from error
    for where, module, _ in trace.pools:
        if not _averages(module):
            raise ModelError(f"{name} cannot be a dense annotator: {where} pools by {_kind(module)}, not by the mean.")
    if trace.pooled is None:
        if trace.worked and trace.features is not None:
            raise ModelError(f"{name} cannot be a dense annotator: {_blame(model, trace)}.")
        raise ModelError(f"{name} cannot be a dense annotator: {place} does not run exactly once, on one row an image.")
    if not torch.isfinite(trace.logits).all():
        raise ModelError(f"{name} gives NaN or infinity: {_broken(model)}; give it other weights.")
    share = _EXACT if weight.dtype in (torch.float32, torch.float64) else _EXACT_HALF
    read = _reader(model, trace, size, share)
    if read is None:
        raise ModelError(f"{name} cannot be a dense annotator: {_blame(model, trace)}.")
    head = DenseHead(read, weight.flatten(1), bias, name)
    maps = head.maps(noise)
    if maps.shape[2] * maps.shape[3] == 1:
        if getattr(model, "global_pool", None) == "token":
            raise ModelError(f"{name} cannot be a dense annotator: {_CLASS_TOKEN}.")
        raise ModelError(f"{name} has a single cell at {size[0]} x {size[1]} pixels; give a greater size.")
    if trace.logits.shape != maps.shape[:2] or not _close(maps.mean(dim=(2, 3)), trace.logits, share):
        raise ModelError(
            f"{name} cannot be a dense annotator: what {place} gives is not what the model gives; something follows it."
        )
    return head


def _classifier(model: nn.Module, name: str) -> tuple[str, nn.Linear | nn.Conv2d]:
    get = getattr(model, "get_classifier", None)
    found: Any = get() if callable(get) else None
    if found is None:
        found = next((getattr(model, key) for key in ("fc", "classifier", "head") if hasattr(model, key)), None)
    if isinstance(found, nn.Sequential) and len(found):
        found = found[-1]
    if isinstance(found, tuple | list):
        raise ModelError(f"{name} cannot be a dense annotator: it averages {len(found)} classifiers (distillation).")
    one_by_one = isinstance(found, nn.Conv2d) and found.kernel_size == (1, 1) and found.groups == 1
    if not (isinstance(found, nn.Linear) or one_by_one):
        raise ModelError(
            f"{name} cannot be a dense annotator: its classifier is {type(found).__name__}, not one linear layer."
        )
    place = next((key for key, module in model.named_modules() if module is found), "the classifier")
    return place, found


def _is_pool(module: nn.Module) -> bool:
    kinds = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
    selectable = hasattr(module, "pool_type") and bool(module.pool_type)
    return selectable or (isinstance(module, kinds) and module.output_size in (1, (1, 1)))


def _kind(module: nn.Module) -> str:
    if "Attention" in type(module).__name__:
        return "attention"
    return str(getattr(module, "pool_type", "") or ("avg" if isinstance(module, nn.AdaptiveAvgPool2d) else "max"))


def _averages(module: nn.Module) -> bool:
    return _kind(module) in ("avg", "fast", "fastavg")


def _follow(model: nn.Module, classifier: nn.Linear | nn.Conv2d, batch: Tensor) -> _Trace:
    """One pass; between `forward_features` and the logits where the model has it, else from the start to the logits."""
    trace = _Trace(None, batch, None, [], [])
    entered: list[Tensor] = []
    split = callable(getattr(model, "forward_features", None)) and callable(getattr(model, "forward_head", None))

    def watch(name: str, module: nn.Module) -> Callable[[nn.Module, Any], None]:
        def before(_: nn.Module, given: Any) -> None:
            if module is classifier:
                entered.append(given[0])
            elif _is_pool(module):
                trace.pools.append((name, module, given[0]))
                if not split:  # what came before it made the features
                    trace.worked.clear()
            else:
                trace.worked.append((name, module))

        return before

    inside = {id(child) for pool in model.modules() if _is_pool(pool) for child in pool.modules() if child is not pool}
    hooks = []
    with torch.inference_mode():
        if split:
            trace.features = model.forward_features(batch)  # type: ignore[operator]
        try:
            for name, module in model.named_modules():
                leaf = not any(True for _ in module.children()) and not isinstance(module, _NO_WORK)
                if id(module) not in inside and (leaf or _is_pool(module)):
                    hooks.append(module.register_forward_pre_hook(watch(name, module)))
            trace.logits = model.forward_head(trace.features) if split else model(batch)  # type: ignore[operator]
        finally:
            for hook in hooks:
                hook.remove()
    if not split and trace.pools:  # pooling inside blocks (squeeze and excitation) comes before the last one
        trace.pools = trace.pools[-1:]
    if len(entered) == 1 and entered[0].flatten(1).shape[1] == classifier.weight.shape[1]:
        trace.pooled = entered[0].flatten(1)
    return trace


def _reader(model: nn.Module, trace: _Trace, size: tuple[int, int], share: float) -> Callable[[Tensor], Tensor] | None:
    """What gives the cells [B, d, H, W] whose mean is fed to the classifier; None when nothing does."""
    assert trace.pooled is not None
    skip = int(getattr(model, "num_prefix_tokens", 0) or 0)
    for lay in (_first, _last, _tokens(skip), _tokens(0)):
        if trace.features is not None and _fits(lay(trace.features, size), trace.pooled, share):
            forward: Any = model.forward_features
            return lambda batch, lay=lay: lay(forward(batch), _size(batch))  # type: ignore[misc]
        if trace.pools and _fits(lay(trace.pools[0][2], size), trace.pooled, share):
            pool = trace.pools[0][1]
            return lambda batch, lay=lay: lay(_entering(model, pool, batch), _size(batch))  # type: ignore[misc]
    return None


def _size(batch: Tensor) -> tuple[int, int]:
    return int(batch.shape[2]), int(batch.shape[3])


def _first(cells: Tensor, size: tuple[int, int]) -> Tensor | None:
    return cells if isinstance(cells, Tensor) and cells.ndim == 4 else None


def _last(cells: Tensor, size: tuple[int, int]) -> Tensor | None:
    return cells.permute(0, 3, 1, 2) if isinstance(cells, Tensor) and cells.ndim == 4 else None


def _tokens(skip: int) -> Callable[[Tensor, tuple[int, int]], Tensor | None]:
    def lay(tokens: Tensor, size: tuple[int, int]) -> Tensor | None:
        if not isinstance(tokens, Tensor) or tokens.ndim != 3 or tokens.shape[1] <= skip:
            return None
        number = int(tokens.shape[1]) - skip
        rows = max(1, round(math.sqrt(number * size[0] / size[1])))  # patches are square
        if number % rows:
            return None
        grid: Tensor = tokens[:, skip:].transpose(1, 2)
        return grid.reshape(*grid.shape[:2], rows, number // rows)

    return lay


def _fits(cells: Tensor | None, pooled: Tensor, share: float) -> bool:
    return cells is not None and cells.shape[1] == pooled.shape[1] and _close(cells.mean(dim=(2, 3)), pooled, share)


def _close(found: Tensor, wanted: Tensor, share: float) -> bool:
    far = float((found.float() - wanted.float()).abs().max())
    return far <= share * float(wanted.float().abs().max()) + 1e-7


def _entering(model: nn.Module, pool: nn.Module, batch: Tensor) -> Tensor:
    """What enters `pool` for the last time; the rest of the pass, the head, costs next to nothing."""
    seen: list[Tensor] = []
    hook = pool.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        model(batch)
    finally:
        hook.remove()
    return seen[-1]


def _broken(model: nn.Module) -> str:
    """Which weights make logits that are not finite."""
    for name, values in [*model.named_parameters(), *model.named_buffers()]:
        if not torch.isfinite(values).all():
            return f"{name} is not finite"
    return "all weights are finite, but it overflows or divides by zero"


def _blame(model: nn.Module, trace: _Trace) -> str:
    """Why the classifier is not fed with the mean over cells."""
    attention = [name for name, module in model.named_modules() if "AttentionPool" in type(module).__name__]
    if attention:
        return f"{attention[0]} pools by attention, so cells do not weigh the same"
    if isinstance(getattr(model, "global_pool", None), str) and model.global_pool == "token":
        return _CLASS_TOKEN
    if trace.worked and (trace.pools or trace.features is not None):
        names = ", ".join(f"{name} ({type(module).__name__})" for name, module in trace.worked[:4])
        return f"between its features and its classifier there is more than average pooling: {names}"
    kind = getattr(model, "global_pool", None)
    return f"its classifier is not fed with the mean over cells{f' (global_pool {kind!r})' if kind else ''}"

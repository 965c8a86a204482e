"""A small timm classifier with random weights on disk, a teacher for tests: 12 classes, 5 x 5 cells at 160 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch

CLASSES = 12


def save(path: Path, seed: int = 0, architecture: str = "test_resnet", classes: int = CLASSES) -> dict[str, Any]:
    """Write the weights; returns the options of a relabel stage."""
    torch.manual_seed(seed)
    model = timm.create_model(architecture, num_classes=classes)
    for parameter in model.parameters():  # a fresh initialisation leaves some layers at zero, which would hide errors
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0, 0.1)
    with torch.no_grad():
        model.get_classifier().weight.mul_(3)  # so that classes differ
    torch.save(model.state_dict(), path)
    return {"model": f"timm/{architecture}", "checkpoint": str(path)}


def network(path: Path, architecture: str = "test_resnet", classes: int = CLASSES) -> Any:
    """The same classifier, by timm alone, in eval mode."""
    model = timm.create_model(architecture, num_classes=classes)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()

"""The EfficientNet-Lite0 network in plain torch, with the module names of the packaged checkpoint.

Written out because importing timm pulls in torchvision and a compiler: seconds of start-up and some 200 MB a worker.
Tests hold it equal to timm's `tf_efficientnet_lite0`. Sources: Tan and Le 2019 (EfficientNet), Table 1, variant B0; the
Lite variant drops squeeze-excitation and uses ReLU6 throughout.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIM = 1280
"""Length of the pooled feature row."""

_BN_EPS = 1e-3  # the checkpoint comes from TensorFlow, whose batch norm uses this and not torch's 1e-5

# (blocks, kernel, stride of the first, expansion, output channels); Table 1 of the paper
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192))
_LAST_STAGE = (1, 3, 1, 6, 320)


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: the odd pixel of padding goes to the right and the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', ceil(H / stride), ceil(W / stride)]."""
        pads = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        if pads[0] == pads[1] == pads[2] == pads[3]:  # even padding needs no padded copy
            return F.conv2d(x, self.weight, self.bias, self.stride, (pads[0], pads[0]), self.dilation, self.groups)
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_BN_EPS)


class Block(nn.Module):
    """An inverted residual block: expand (when the factor is not 1), depthwise, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self._expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False) if expansion != 1 else None
        self._bn0 = _norm(hidden) if expansion != 1 else None
        self._depthwise_conv = SameConv(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = _norm(hidden)
        self._project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        y = x
        if self._expand_conv is not None and self._bn0 is not None:
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        out: Tensor = y + x if self.residual else y
        return out


class Lite0(nn.Module):
    """The network; `_fc` is kept so that the checkpoint loads strictly and class scores can be read."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks: list[Block] = []
        channels = 32
        for repeats, kernel, stride, expansion, outputs in (*_STAGES, _LAST_STAGE):
            for repeat in range(repeats):
                blocks.append(Block(channels, outputs, kernel, stride if repeat == 0 else 1, expansion))
                channels = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(channels, DIM, 1, bias=False)
        self._bn1 = _norm(DIM)
        self._fc = nn.Linear(DIM, classes)

    def feature_map(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 1280, H / 32, W / 32] (rounded up)."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        x = self._blocks(x)
        return F.relu6(self._bn1(self._conv_head(x)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> the pooled feature row [B, 1280]."""
        return self.feature_map(x).mean(dim=(2, 3))


class Lite0Classifier(nn.Module):
    """The network with its head, in the pieces that timm's models have: features, pooling and linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Lite0()

    def get_classifier(self) -> nn.Linear:
        """The linear layer."""
        return self.network._fc

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 1280, H / 32, W / 32] (rounded up)."""
        return self.network.feature_map(x)

    def forward_head(self, x: Tensor) -> Tensor:
        """Features -> logits [B, classes]."""
        out: Tensor = self.network._fc(x.mean(dim=(2, 3)))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> logits [B, classes]."""
        return self.forward_head(self.forward_features(x))


def fuse(network: Lite0) -> Lite0:
    """Fold every batch norm into the convolution before it (exact up to rounding), in place; for inference only."""
    with torch.no_grad():
        _fold(network, "_conv_stem", "_bn0")
        for block in network._blocks:
            _fold(block, "_expand_conv", "_bn0")
            _fold(block, "_depthwise_conv", "_bn1")
            _fold(block, "_project_conv", "_bn2")
        _fold(network, "_conv_head", "_bn1")
    return network


def _fold(module: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = getattr(module, conv_name), getattr(module, norm_name)
    if conv is None:
        return
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    conv.weight.copy_((conv.weight.double() * scale[:, None, None, None]).to(conv.weight.dtype))
    conv.bias = nn.Parameter((norm.bias.double() - norm.running_mean.double() * scale).to(conv.weight.dtype))
    setattr(module, norm_name, nn.Identity())

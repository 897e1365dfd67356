"""Synaptic flow: how much passes through the weights of a network, without data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.ops import FrozenBatchNorm2d

from lightning_nas.graph.tensors import tensors_in
from lightning_nas.supernet.score_run import check_images, score_run
from lightning_nas.supernet.source_outputs import run_network

__all__ = ["synflow"]

# On positive values a ReLU changes nothing; what bends or bounds them is taken for one, and norms are taken out.
_LEFT_OUT = frozenset(
    (
        *("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "threshold", "leaky_relu", "rrelu", "prelu"),
        *("elu", "celu", "selu", "silu", "mish", "gelu", "hardswish", "softplus"),
        *("batch_norm", "group_norm", "layer_norm", "instance_norm"),
    )
)


def synflow(network: nn.Module, images: Tensor) -> float:
    """Return the logarithm of the synaptic flow (Tanaka et al. 2020, arXiv 2006.05467) as a score of a network.

    With the absolute values of all weights, without norms, and on an image of ones, the sum R of the outputs is
    differentiated; the flow is the sum of w dR/dw over the weights of convolutions and linear layers. That is the score
    of Abdelfattah et al. 2021 (arXiv 2101.08134). More was better there, among untrained networks of all sizes; in a
    narrow band of latency the sign can be the other one. Activations are left out as a ReLU is on positive values, but
    gates (sigmoids) are kept, so that they stay bounded.

    Args:
        network: The network; it is not changed.
        images: Images whose shape it takes, (N, 3, H, W); their values are not read.

    Raises:
        ValueError: The network has an operator that fails or overflows.
    """
    check_images("synflow", images, 1)
    # The flow grows with each layer, and not every device has float64.
    positive = deepcopy(network).cpu().double().eval()
    for path, module in list(positive.named_modules()):
        if isinstance(module, FrozenBatchNorm2d):
            positive.set_submodule(path, nn.Identity())
    with torch.no_grad():
        for parameter in positive.parameters():
            parameter.abs_().requires_grad_(True)
    ones = torch.ones(1, *images.shape[1:], dtype=torch.float64)
    layers = (module for module in positive.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear))
    weights = [layer.weight for layer in layers]
    with torch.enable_grad(), score_run("synflow", positive), _Positive():
        total = torch.stack([tensor.sum() for tensor in tensors_in(run_network(positive, ones))]).sum()
        gradients = torch.autograd.grad(total, weights, allow_unused=True)
    pairs = zip(weights, gradients, strict=True)
    flow = sum(float((weight.detach() * gradient).sum()) for weight, gradient in pairs if gradient is not None)
    if not math.isfinite(flow) or flow <= 0:
        raise ValueError(f"`synflow` is no finite number above 0 for {type(network).__name__}; its flow is {flow}.")
    return math.log(flow)


class _Positive(TorchFunctionMode):
    """Leaves out norms and activations, those that are functions, too."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        named = kwargs or {}
        if getattr(func, "__name__", "").removesuffix("_") in _LEFT_OUT:
            return args[0] if args else named["input"]
        return func(*args, **named)

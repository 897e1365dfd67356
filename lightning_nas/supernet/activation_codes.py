"""Scores by activation codes: on which side of zero the values are that a network's activations take."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.supernet.score_run import check_images, score_run
from lightning_nas.supernet.source_outputs import run_network

__all__ = ["naswot", "swap"]

# As PyTorch dispatches them: ReLU6 is a hardtanh, SELU and CELU are an elu.
_ACTIVATIONS = frozenset(
    (
        *("relu", "hardtanh", "clamp", "clamp_min", "threshold", "leaky_relu", "rrelu_with_noise", "_prelu_kernel"),
        *("elu", "silu", "mish", "gelu", "hardswish", "softplus", "sigmoid", "hardsigmoid", "tanh"),
    )
)
# So many bits are added to the number of a pattern at a time; the number itself takes up to 32.
_BITS = 31


def naswot(network: nn.Module, images: Tensor) -> float:
    """Return NASWOT: how well a network's activations tell images apart (Mellor et al. 2021, arXiv 2006.04647).

    The code of an image is a bit for each value that an activation takes: whether it is above 0, which for a ReLU is
    whether its result is. K counts for each two images the bits in which they agree; the score is log|det K|. More is
    better. The network runs in evaluation mode, with the weights that it has.

    Args:
        network: The network; it is not changed.
        images: Images, shape (N, 3, H, W), normalised.

    Returns:
        The score; minus infinity where two images have the same code.

    Raises:
        ValueError: There are fewer than 2 images, or the network has no activations or an operator that fails.
    """
    check_images("naswot", images, 2)
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64)

    def add(bits: Tensor) -> None:
        code = bits.float()
        both, ones = code @ code.T, code.sum(1)
        # Bits that both have, and those that neither has.
        kernel.add_((2 * both - ones - ones[:, None] + code.shape[1]).cpu())

    _each_code("naswot", network, images, add)
    alike = kernel == kernel.diagonal()
    if alike.sum() > len(images):
        return -torch.inf
    return float(torch.linalg.slogdet(kernel).logabsdet)


def swap(network: nn.Module, images: Tensor) -> float:
    """Return the SWAP score: the number of sample-wise activation patterns (Peng et al. 2024, arXiv 2403.04161).

    The pattern of a value that an activation takes is a bit for each image: whether the value is above 0. The score is
    the number of different patterns in the whole network. More is better. The paper's factor that prefers one size of
    model is left out: in a band of latency the budget does that.

    Args:
        network: The network; it is not changed. It runs in evaluation mode, with the weights that it has.
        images: Images, shape (N, 3, H, W), normalised. With many of them nearly all patterns differ.

    Raises:
        ValueError: There are fewer than 2 images, or the network has no activations or an operator that fails.
    """
    check_images("swap", images, 2)
    packed: list[list[Tensor]] = [[] for _ in range(0, len(images), _BITS)]

    def add(bits: Tensor) -> None:
        for words, part in zip(packed, bits.split(_BITS), strict=True):
            word = torch.zeros(part.shape[1], dtype=torch.int64, device=part.device)
            for place, row in enumerate(part):
                word |= row.long() << place
            words.append(word)

    _each_code("swap", network, images, add)
    number = torch.zeros_like(torch.cat(packed[0]))
    for words in packed:
        number = torch.unique(number << _BITS | torch.cat(words), return_inverse=True)[1]
    return float(number.max() + 1)


def _each_code(score: str, network: nn.Module, images: Tensor, take: Callable[[Tensor], None]) -> None:
    """Hand on the bits of each activation, shape (N, values)."""
    codes = _Codes(len(images), take)
    with evaluating(network), score_run(score, network), codes:
        run_network(network, images)
    if not codes.count:
        raise ValueError(f"`{score}` reads activations; {type(network).__name__} runs none that it knows.")


class _Codes(TorchDispatchMode):
    """Hands on which values are above 0 where an activation takes them, also one that is a function or in place."""

    def __init__(self, num_images: int, take: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.num_images, self.take, self.count = num_images, take, 0

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        values = args[0] if args and func.overloadpacket.__name__.removesuffix("_") in _ACTIVATIONS else None
        if isinstance(values, Tensor) and values.ndim > 1 and len(values) == self.num_images:
            self.count += 1
            self.take((values > 0).flatten(1))
        return func(*args, **(kwargs or {}))

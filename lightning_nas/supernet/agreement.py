"""Check of a conversion: source, supernet and derived network have equal outputs for the same images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from lightning_nas.graph.eval_mode import undisturbed
from lightning_nas.supernet.derive import derive
from lightning_nas.supernet.supernet import find_supernet

__all__ = ["check_agreement", "check_same", "outputs_of"]

# Of the images: what is beyond an activation's upper end has to occur, and what is not.
SCALES = (1.0, 8.0)
# Of the outputs' norm. The same operators run on the same weights; kernels may differ in the order of their sums.
TOLERANCE, REDUCED_TOLERANCE = 1e-4, 2e-2


def outputs_of(network: nn.Module, example_input: Tensor) -> list[Tensor]:
    """Return the outputs of a network for random images, in evaluation mode; the network is left unchanged.

    Args:
        network: The network.
        example_input: One batch that it can run, shape (N, C, H, W), for size, precision and device.
    """
    shape = (min(2, len(example_input)), *example_input.shape[1:])
    generator = torch.Generator().manual_seed(0)
    found: list[Tensor] = []
    with undisturbed(network):
        for scale in SCALES:
            images = scale * torch.randn(shape, generator=generator)
            # What is random in evaluation mode, too, is the same for all that are compared.
            torch.manual_seed(0)
            found += _tensors(network(images.to(example_input)))
    return found


def check_agreement(network: nn.Module, example_input: Tensor, expected: list[Tensor]) -> None:
    """Check that a supernet at its reference, and the network derived from it, compute what the source did.

    Args:
        network: The supernet.
        example_input: One batch that it can run.
        expected: What `outputs_of` gave for the source.

    Raises:
        ValueError: One of them gives something else, or cannot run.
    """
    name = type(network).__name__
    encoding = find_supernet(network).space.reference_encoding
    tolerance = _tolerance(example_input)
    for what in ("its supernet", "the network derived from its supernet"):
        try:
            with undisturbed(network):
                tried = derive(network, encoding) if what.startswith("the") else network
            given = outputs_of(tried, example_input)
        except Exception as error:
            raise ValueError(
                f"{name} cannot be converted: {what} does not run ({type(error).__name__}: {error}). It is unchanged."
            ) from error
        distance = _distance(expected, given)
        if not distance <= tolerance:
            raise ValueError(
                f"{name} cannot be converted: for the same random images {what} gives other outputs, off by"
                f" {distance:.2g} of their norm. It is unchanged. HINT: something in it is not what torchvision or timm"
                " build; start from their network as it comes, and change the one that is derived."
            )


def _tolerance(example_input: Tensor) -> float:
    """Return how far outputs of the same function may be apart, relative to their norm, where they run on an input."""
    is_reduced = example_input.is_cuda or example_input.dtype not in (torch.float32, torch.float64)
    return REDUCED_TOLERANCE if is_reduced else TOLERANCE


def check_same(expected: list[Tensor], network: nn.Module, example_input: Tensor) -> None:
    """Check that a network computes what another one did.

    Args:
        expected: What `outputs_of` gave for the other one.
        network: The network.
        example_input: One batch that it can run.

    Raises:
        ValueError: It does not; the message says by how much.
    """
    distance = _distance(expected, outputs_of(network, example_input))
    if not distance <= _tolerance(example_input):
        raise ValueError(f"for the same random images its outputs are off by {distance:.2g} of their norm.")


def _tensors(output: object) -> list[Tensor]:
    return [tensor.detach().cpu().double() for tensor in _flat(output)]


def _flat(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | list | tuple):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _flat(part)


def _distance(expected: list[Tensor], given: list[Tensor]) -> float:
    """Return the largest distance of two outputs, relative to what is expected; infinite for those of other shapes."""
    if [a.shape for a in expected] != [b.shape for b in given]:
        return float("inf")
    return max((_relative(a, b) for a, b in zip(expected, given, strict=True)), default=0.0)


def _relative(expected: Tensor, given: Tensor) -> float:
    finite = expected.isfinite()
    if not torch.equal(finite, given.isfinite()):
        return float("inf")
    expected, given = expected[finite], given[finite]
    return float((given - expected).norm() / expected.norm().clamp(min=1e-12))

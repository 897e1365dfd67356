"""The check of width groups: narrower networks compute what the whole one does without the channels that they lack."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lightning_nas.graph.detector import without_detection
from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.graph.narrowing import masked, narrowed
from lightning_nas.graph.tensors import tensors_in
from lightning_nas.graph.width_groups import WidthGroups

__all__ = ["checked_groups"]

_NUM_DRAWS = 3
"""Of widths, odd ones among them: some faults do not show at every width."""

_TOLERANCE, _ROUNDING = 1e-3, 1e-5


def checked_groups(model: nn.Module, example_input: Tensor, groups: WidthGroups, seed: int = 0) -> WidthGroups:
    """Return the groups with those frozen whose narrower networks do not compute what they should.

    The networks have random weights: those of a trained one may hide a branch, as a scale of zero does. All open groups
    are narrowed at once, to random shares, several times. Where that is not right, halves of them are, down to single
    groups, so that a few wrong ones among many are found in few runs.

    Args:
        model: The network; it is not changed.
        example_input: One batch that it can run, shape (N, C, H, W).
        groups: What `width_groups` found.
        seed: Of the widths.
    """
    check = _Check(_randomized(model, seed), example_input, groups, np.random.default_rng(seed))
    wrong = check.wrong(list(groups.open))
    frozen = [
        replace(group, frozen=wrong[number]) if number in wrong else group for number, group in enumerate(groups.groups)
    ]
    return replace(groups, groups=tuple(frozen))


@dataclass
class _Check:
    model: nn.Module
    example_input: Tensor
    groups: WidthGroups
    generator: np.random.Generator

    def wrong(self, numbers: Sequence[int]) -> dict[int, str]:
        """Return the groups that are wrong, each with the reason."""
        if not numbers or not (reason := self._fault(numbers)):
            return {}
        if len(numbers) == 1:
            return {numbers[0]: reason}
        half = len(numbers) // 2
        found = self.wrong(numbers[:half]) | self.wrong(numbers[half:])
        left = [number for number in numbers if number not in found]
        # Groups that are right alone and wrong together depend on each other.
        return found | (dict.fromkeys(left, "its width depends on another's") if self._fault(left) else {})

    def _fault(self, numbers: Sequence[int]) -> str:
        """Return what goes wrong where groups are narrowed together; nothing where they are right."""
        for _ in range(_NUM_DRAWS if numbers else 0):
            widths = {number: self._draw(self.groups.groups[number].size) for number in numbers}
            try:
                given = self._outputs(narrowed(self.model, self.groups, widths))
            except Exception as error:  # a network of wrong widths fails in any way
                return f"a narrower network does not run: {str(error).splitlines()[0][:120]}"
            if not _are_close(self._outputs(masked(self.model, self.groups, widths)), given):
                return "a narrower network computes something else"
        return ""

    def _draw(self, size: int) -> int:
        return int(self.generator.integers(max(1, size // 4), max(2, 3 * size // 4 + 1)))

    def _outputs(self, model: nn.Module) -> list[Tensor]:
        with evaluating(model):
            return tensors_in(without_detection(model)(self.example_input))


def _are_close(expected: Sequence[Tensor], given: Sequence[Tensor]) -> bool:
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in given]:
        return False
    return all(_is_close(a.double(), b.double()) for a, b in zip(expected, given, strict=True))


def _is_close(expected: Tensor, given: Tensor) -> bool:
    if not expected.numel():
        return True
    # By how much the values differ from each other: what all have in common, such as an offset, tells nothing.
    spread = float((expected - expected.mean()).abs().max())
    return bool((given - expected).abs().max() <= _TOLERANCE * spread + _ROUNDING * float(expected.abs().max()))


@torch.no_grad()
def _randomized(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a network in evaluation mode, of random weights and statistics that keep the scale of values."""
    copy, generator = deepcopy(model).eval(), torch.Generator().manual_seed(seed)
    for name, tensor in (*copy.named_parameters(), *copy.named_buffers()):
        if not tensor.is_floating_point() or tensor.is_meta:
            continue
        own = name.rpartition(".")[2]
        values = torch.rand(tensor.shape, generator=generator)
        if isinstance(tensor, nn.Parameter) and tensor.ndim > 1 and tensor.numel() > max(tensor.shape):
            fan_in = tensor[0].numel()
            values = torch.randn(tensor.shape, generator=generator) * (2.0 / fan_in) ** 0.5
        elif own in ("bias", "running_mean"):
            values = 0.2 * (values - 0.5)
        elif isinstance(tensor, nn.Parameter) or own == "running_var":
            values = 0.5 + values
        else:
            continue
        tensor.copy_(values.to(tensor))
    return copy

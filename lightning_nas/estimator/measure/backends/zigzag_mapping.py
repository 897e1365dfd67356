"""The fastest way to run a layer on an accelerator, by ZigZag's cost model over orders of the layer's loops."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isqrt
from typing import TypedDict

from zigzag.hardware.architecture.accelerator import Accelerator
from zigzag.mapping.spatial_mapping_internal import SpatialMappingInternal
from zigzag.mapping.temporal_mapping import TemporalMappingType
from zigzag.opt.loma.engine import LomaEngine
from zigzag.opt.loma.memory_allocator import MemoryAllocator, MemoryHierarchyTooSmallException, MemoryTooSmallException
from zigzag.parser.workload_factory import WorkloadFactory
from zigzag.stages.evaluation.cost_model_evaluation import CostModelStage
from zigzag.stages.mapping.spatial_mapping_generation import SpatialMappingGeneratorStage
from zigzag.stages.results.reduce_stages import MinimalLatencyStage
from zigzag.stages.stage import Stage
from zigzag.stages.workload_iterator import WorkloadStage
from zigzag.workload.layer_node import LayerNode

from lightning_nas.estimator.measure.backends.zigzag_hardware import Hardware

__all__ = ["Workload", "fastest_cycles"]

_FILTER, _IMAGE = ("C", "FX", "FY"), ("OX", "OY")
# As many orders as permutations of four: a tenth of a second a layer.
_MAX_GROUPS = 4

_UNEVEN = TemporalMappingType.UNEVEN
_Loop = tuple[object, int]


class Workload(TypedDict):
    """A layer in the format of ZigZag's workloads."""

    id: int
    name: str
    operator_type: str
    equation: str
    loop_dims: Sequence[str]
    loop_sizes: Sequence[int]
    dimension_relations: Sequence[str]
    operand_precision: Mapping[str, int]
    operand_source: Mapping[str, int]
    pr_loop_dims: Sequence[str] | None
    pr_loop_sizes: Sequence[int] | None
    padding: Sequence[Sequence[int]] | None


def fastest_cycles(hardware: Hardware, layer: Workload) -> int:
    """Return the cycles of a layer by the fastest mapping that is found.

    Args:
        hardware: What it runs on.
        layer: The layer.

    Raises:
        ValueError: It fits the memories in no way.
    """
    # The first keeps the best of the mappings to the array, the second the best order of loops for each of them.
    stages = [MinimalLatencyStage, SpatialMappingGeneratorStage, MinimalLatencyStage, _Orders, CostModelStage]
    workload = WorkloadFactory([layer], hardware.mappings).create()
    search = WorkloadStage(stages, workload=workload, accelerator=hardware.accelerator)
    try:
        (found,) = search.run()
    except (AssertionError, MemoryTooSmallException) as error:
        sizes = " ".join(f"{loop} {size}" for loop, size in zip(layer["loop_dims"], layer["loop_sizes"], strict=True))
        raise ValueError(
            f"Hardware {hardware.accelerator.name!r} cannot run a layer of loops {sizes}: none of their orders fits the"
            f" memories. {error}"
        ) from error
    return round(found[0].latency_total2)


class _Orders(Stage):
    """Runs the stages below for each order of the loops, innermost first."""

    def __init__(
        self,
        list_of_callables: list[Callable[..., Stage]],
        *,
        accelerator: Accelerator,
        layer: LayerNode,
        spatial_mapping: SpatialMappingInternal,
        **kwargs: object,
    ) -> None:
        super().__init__(list_of_callables, **kwargs)
        self._given = {"accelerator": accelerator, "layer": layer, "spatial_mapping": spatial_mapping}

    def run(self) -> Iterator[tuple[object, object]]:
        given = self._given
        loops = LomaEngine(**given, mapping_type=_UNEVEN).get_temporal_loops()
        for order in _orders(list(loops.items()) or [(given["layer"].layer_dims[0], 1)]):
            try:
                mapping = MemoryAllocator(**given, ordering=order, mapping_type=_UNEVEN).run()
            # This order fits no memory; another one may.
            except (MemoryHierarchyTooSmallException, MemoryTooSmallException):
                continue
            below = self.list_of_callables[0](
                self.list_of_callables[1:], **self.kwargs, **given, temporal_mapping=mapping
            )
            yield from below.run()


def _orders(loops: list[_Loop]) -> list[list[_Loop]]:
    """Return orders of the loops of which those of the image, and those of a filter, stay together.

    ZigZag's own search permutes all prime factors: 720 orders of a 3x3 convolution, three seconds. Of ten layers that
    were compared one was 3 % slower by these orders, none of which takes more than a tenth of a second. Convolutions
    without a filter gain from channels in two parts, of which one stays in a memory that the whole does not fit.
    """
    named = {str(loop[0]): loop for loop in loops}
    has_filter = "FX" in named or "FY" in named
    together = [[named.pop(name) for name in names if name in named] for names in (_FILTER, _IMAGE)[not has_filter :]]
    groups = [group for group in together if group]
    rest = sorted(named.values(), key=lambda loop: loop[1])
    while rest:
        dimension, size = rest.pop()
        is_split = not has_filter and len(groups) + len(rest) + 2 <= _MAX_GROUPS
        factor = _factor(size) if is_split else 1
        parts = [size // factor, factor] if factor > 1 else [size]
        groups += [[(dimension, part)] for part in parts]
    return [[loop for group in order for loop in group] for order in itertools.permutations(groups)]


def _factor(size: int) -> int:
    """Return the largest divisor up to the square root."""
    return next(divisor for divisor in range(isqrt(size), 0, -1) if size % divisor == 0)

"""Suggestions that are done by hand: other activations, no squeeze-and-excitation, standard for depthwise convolutions.

Each is priced on the traced network with its operators changed, without the modules of the network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from lightning_nas.budget.suggestion import Suggestion, SuggestionKind, network_cost, suggestion
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.graph.edits import Edit, Link, edited
from lightning_nas.graph.elastic_network import ElasticNetwork
from lightning_nas.graph.layer import BOUNDS
from lightning_nas.graph.network import IMAGE

__all__ = ["hand_suggestions"]

_PIXEL = (1, 1)
_CURVED = ("silu", "hardswish", "gelu", "elu", "mish", "leaky_relu", "prelu", "tanh", "sigmoid", "hardsigmoid")
"""Activations that a ReLU can stand for."""


def hand_suggestions(network: ElasticNetwork, estimator: CostModel, fusable: Collection[str]) -> list[Suggestion]:
    """Return changes of operators that save time, each priced alone.

    Args:
        network: The network as it was traced.
        estimator: The estimator of the device.
        fusable: Paths of depthwise convolutions of blocks that can be fused, for which there are suggestions already.
    """
    finder = _Finder(network, estimator)
    found = [*finder.activations(), *finder.excitations(), *finder.depthwise(fusable)]
    # What an activation costs is worth knowing where it is nothing, too.
    return [one for one in found if one.saved_ms > 0 or one.kind == "activation"]


class _Finder:
    def __init__(self, network: ElasticNetwork, estimator: CostModel) -> None:
        self.network, self.estimator = network, estimator
        self.operations = network.network.operations
        self.source = network_cost(estimator, network.network)
        self.readers: dict[int, list[int]] = {}
        for number, operation in enumerate(self.operations):
            for source in operation.inputs:
                self.readers.setdefault(source, []).append(number)

    def activations(self) -> Iterator[Suggestion]:
        """Yield for each kind of activation what ReLU in its place saves."""
        numbers: dict[str, list[int]] = {}
        for number, operation in enumerate(self.operations):
            layer, form = operation.layer, operation.layer.form
            if layer.operator != "activation" or form is None or layer.in_shape[:2] == _PIXEL:
                continue
            if form.variant in _CURVED and not self._is_gate(number):
                numbers.setdefault(form.variant, []).append(number)
        for variant, places in numbers.items():
            edit = Edit(chains={number: (self._relu(number),) for number in places})
            text = f"ReLU in place of {variant} ({len(places)} times)"
            yield self._priced("activation", self._path(places), text, [edit])

    def excitations(self) -> Iterator[Suggestion]:
        """Yield what the network saves without its squeeze-and-excitation."""
        edits = {n: edit for n in range(len(self.operations)) if (edit := self._excitation(n)) is not None}
        if edits:
            text = f"no squeeze-and-excitation ({len(edits)} times)"
            yield self._priced("excitation", self._path(list(edits)), text, list(edits.values()))

    def depthwise(self, fusable: Collection[str]) -> Iterator[Suggestion]:
        """Yield depthwise-separable convolutions that are slower than one standard convolution in their place."""
        for number, operation in enumerate(self.operations):
            if operation.layer.operator != "depthwise" or operation.path in fusable:
                continue
            edit = self._standard(number)
            if edit is not None:
                text = "standard convolution for depthwise and 1x1"
                yield self._priced("depthwise", operation.path, text, [edit])

    def _is_gate(self, number: int) -> bool:
        """Return whether a map is multiplied with another one, pixel by pixel: no ReLU can stand for that."""
        shape = self.network.network.shape
        products = (self.operations[reader] for reader in self.readers.get(number, []))
        others = (
            source for one in products if one.layer.operator == "mul" for source in one.inputs if source != number
        )
        return any(shape(source)[:2] != _PIXEL for source in others)

    def _relu(self, number: int) -> Link:
        operation = self.operations[number]
        form = operation.layer.form
        assert form is not None  # those without one are left out
        layer = replace(operation.layer, form=replace(form, variant=BOUNDS[0], num_values=0))
        return Link(replace(operation, layer=layer), self.network.counts[number])

    def _excitation(self, number: int) -> Edit | None:
        """Return the edit that takes out what scales the channels of a map by what its average gives."""
        operation = self.operations[number]
        if operation.layer.operator != "mul" or len(operation.inputs) != 2:
            return None
        for image, gate in (operation.inputs, operation.inputs[::-1]):
            if gate == IMAGE or image == IMAGE or self.network.network.shape(gate)[:2] != _PIXEL:
                continue
            inside = self._between(image, gate)
            if inside and all(set(self.readers.get(n, [])) <= {*inside, number} for n in inside):
                return Edit(bypassed={number: image}, removed=frozenset(inside))
        return None

    def _between(self, image: int, gate: int) -> list[int]:
        """Return the operations that make a gate of a map and of nothing else; none where there are no such."""
        found: list[int] = []
        left = [gate]
        while left:
            number = left.pop()
            if number == image or number in found:
                continue
            if number < image:
                return []  # it reads something else, too
            found.append(number)
            left += self.operations[number].inputs
        return found

    def _standard(self, depthwise: int) -> Edit | None:
        """Return the edit by which a 1x1 convolution does the work of the depthwise one before it."""
        between: list[int] = []
        number = depthwise
        while len(readers := self.readers.get(number, [])) == 1 and number not in self.network.network.outputs:
            number = readers[0]
            layer = self.operations[number].layer
            if layer.operator == "conv" and layer.window == _PIXEL:
                return self._joined(depthwise, between, number)
            if layer.operator not in ("norm", "activation"):
                return None
            between.append(number)
        return None

    def _joined(self, depthwise: int, between: list[int], project: int) -> Edit | None:
        spatial, last = self.operations[depthwise], self.operations[project]
        form = spatial.layer.form
        if form is None or (last.layer.form is not None and last.layer.form.groups != 1):
            return None
        counts = self.network.counts[depthwise][0], self.network.counts[project][1]
        layer = replace(
            spatial.layer, operator="conv", out_channels=last.layer.out_channels, form=replace(form, groups=1)
        )
        link = Link(replace(last, layer=layer), counts)
        bypassed = {number: self.operations[number].inputs[0] for number in (depthwise, *between)}
        return Edit(chains={project: (link,)}, bypassed=bypassed)

    def _path(self, numbers: list[int]) -> str:
        paths = list(dict.fromkeys(self.operations[number].path for number in numbers))
        return paths[0] if len(paths) == 1 else f"{paths[0]}, ..."

    def _priced(self, kind: SuggestionKind, path: str, text: str, edits: list[Edit]) -> Suggestion:
        after = network_cost(self.estimator, edited(self.network, edits).network)
        return suggestion(kind, (path, text), self.source, after)

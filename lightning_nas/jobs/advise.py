"""`advise`: where a network loses time on a device, and what to change, without training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn

from lightning_nas.budget.budget import LATENCY
from lightning_nas.budget.hand_edits import hand_suggestions
from lightning_nas.budget.suggestion import NetworkCost, Suggestion, changed, network_cost, suggestion
from lightning_nas.budget.suggestions import space_suggestions
from lightning_nas.budget.together import Step, together
from lightning_nas.estimator.bounds import LayerBound, layer_bounds
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.graph.decompose import split
from lightning_nas.graph.network import Network
from lightning_nas.graph.trace import trace
from lightning_nas.io.numbers import check_number
from lightning_nas.jobs.advice_harm import check_images, near_chance, with_harm
from lightning_nas.jobs.advice_tables import advice_tables, advice_title
from lightning_nas.jobs.rivals import RIVALS, is_same_stock, stock_rivals
from lightning_nas.report.advice import advice_text
from lightning_nas.space.architecture import Architecture
from lightning_nas.space.choice import Choice
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.spec import SearchSpace
from lightning_nas.supernet import space_of, stock_network

__all__ = ["MOST_HARM", "Advice", "advise", "advise_on"]

log = logging.getLogger(__name__)

MOST_HARM = 1.0
"""The most harm of the steps in sum, by default: before any training what the last layers give is then off by as much
as it varies."""

_OPTIONS = SpaceOptions(kinds=("ibn", "fused", "skip"), ratios=(0.5, 0.625, 0.75, 0.875, 1.0))
_SIDES = (0.75, 0.5)
# Networks halve their maps five times.
_SIDE_STEP = 32
_NUM_STOCK = 5


@dataclass(frozen=True)
class Advice:
    """Where a network loses time on a device, and what to change. As text it is tables for a terminal.

    Attributes:
        network: Class of the network.
        device: Name of the device.
        cost: What the network costs.
        layers: What each layer costs and what bounds it, in order of execution.
        suggestions: What to change, each priced alone; what saves most, or most for its harm where that was measured,
            comes first.
        steps: Those that the space can apply, taken one after the other.
        space: The space around the network that applies them; None where it has none.
        compiled_ms: Latency of the network, and of that with all steps, by the compiler of the device; None where it is
            not installed.
        notes: What could not be found out, and why.
    """

    network: str
    device: str
    cost: NetworkCost
    layers: tuple[LayerBound, ...]
    suggestions: tuple[Suggestion, ...]
    steps: tuple[Step, ...]
    space: SearchSpace | None
    compiled_ms: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def architecture(self) -> Architecture | None:
        """The network with all steps; None where there is no step."""
        if self.space is None or not self.steps:
            return None
        # Of two steps at one node the later one stands.
        changes = {c.node: c for step in self.steps if (c := step.suggestion.change) is not None}
        return changed(self.space, list(changes.values()))

    def __str__(self) -> str:
        title = advice_title(self.network, self.device, self.cost)
        tables = advice_tables(self.cost, self.layers, self.suggestions, self.steps, self.compiled_ms)
        return advice_text(title, tables, self.notes)


def advise(model: nn.Module, example_input: Tensor, estimator: CostModel, images: Tensor | None = None) -> Advice:
    """Return where a network loses time on a device, and what to change; nothing is trained.

    Blocks are fused, widths aligned to the lanes or narrowed, residual blocks left out, depthwise convolutions,
    activations and squeeze-and-excitation replaced, images made smaller, and stock networks compared. Each change is
    priced as a whole network. `lightning_nas.apply_advice` makes what the steps say.

    Args:
        model: Any convolutional network; it is not changed.
        example_input: One image of the size of deployment, shape (1, 3, H, W).
        estimator: The estimator of the device.
        images: Training images of a trained network, shape (N, 3, H, W), normalised; some hundred. With them the harm
            of each change is measured: it is made alone, refitted by two thirds of the images, and judged on the rest.

    Raises:
        ValueError: The network runs no convolution, or the images are not of its size.

    Example::

        >>> import torch
        >>> from torchvision.models import mobilenet_v2
        >>> from lightning_nas.estimator import Estimator
        >>> estimator = Estimator.load("ethos_u85_1024")
        >>> advice = advise_on(mobilenet_v2(), torch.zeros(1, 3, 224, 224), estimator, stock=None)
        >>> [(step.suggestion.kind, step.suggestion.path) for step in advice.steps][:2]
        [('fuse', 'features.2.conv'), ('fuse', 'features.4.conv')]
    """
    make = _classifiers(model, example_input, estimator)
    return advise_on(model, example_input, estimator, images, stock=make)


def advise_on(
    model: nn.Module,
    example_input: Tensor,
    estimator: CostModel,
    images: Tensor | None = None,
    stock: Callable[[str], nn.Module] | None = None,
    own_name: str = "",
    most_harm: float = MOST_HARM,
) -> Advice:
    """Return the advice of `advise`.

    Args:
        model: The network.
        example_input: One image.
        estimator: The estimator of the device.
        images: Training images; None for none.
        stock: Makes another network of the name of a stock network; None compares with none.
        own_name: Name of the network itself, where it is a stock one.
        most_harm: The most harm of the steps in sum.

    Raises:
        ValueError: As `advise`, or `most_harm` is below 0.
    """
    check_number("most_harm", most_harm, least=0)
    traced = _traced(model, example_input, estimator)
    if images is not None:
        check_images(images, example_input)
    cost, notes = network_cost(estimator, traced), []
    space, found = None, [*_smaller_inputs(model, example_input, estimator, cost)]
    try:
        space = space_of(model, example_input, estimator.lanes, _OPTIONS)
    except ValueError as error:
        notes.append(f"No block and no width can be changed: {error}")
    if space is not None:
        found += space_suggestions(space, estimator)
        fusable = [choice.block.depthwise for choice in space.choices if choice.block and _is_fusable(choice)]
        found += hand_suggestions(space.network, estimator, fusable)
        if images is not None:
            if note := near_chance(model, images):
                notes.append(note)
            found = with_harm(found, model, space, images)
    if stock is not None:
        found += _stock(stock, own_name, example_input, estimator, cost)
    for note in notes:
        log.warning("%s", note)
    advice = Advice(
        network=type(model).__name__,
        device=estimator.device.name,
        cost=cost,
        layers=tuple(layer_bounds(split(traced), estimator)),
        suggestions=tuple(sorted(found, key=_rank)),
        steps=tuple(together(space, found, estimator, most_harm)) if space is not None else (),
        space=space,
        notes=tuple(notes),
    )
    return replace(advice, compiled_ms=_compiled(advice, estimator))


def _compiled(advice: Advice, estimator: CostModel) -> tuple[float, float] | None:
    """Return what the compiler says of the network before and after all steps."""
    if advice.space is None or advice.architecture is None:
        return None
    before = estimator.verify_ms(changed(advice.space, []))
    after = None if before is None else estimator.verify_ms(advice.architecture)
    return None if before is None or after is None else (before, after)


def _traced(model: nn.Module, example_input: Tensor, estimator: CostModel) -> Network:
    network = trace(model, example_input, getattr(estimator, "fallback", None))
    if not any(operation.layer.operator in ("conv", "depthwise") for operation in network.operations):
        raise ValueError(f"Advice is for convolutional networks; this {type(model).__name__} runs no convolution.")
    return network


def _smaller_inputs(
    model: nn.Module, example_input: Tensor, estimator: CostModel, cost: NetworkCost
) -> Iterator[Suggestion]:
    """Yield what smaller images save, where the network runs on them."""
    height, width = example_input.shape[-2:]
    seen = {(height, width)}
    for ratio in _SIDES:
        sides = _rounded(height * ratio), _rounded(width * ratio)
        if sides in seen or sides[0] > height or sides[1] > width:
            continue
        seen.add(sides)
        try:
            smaller = _traced(model, example_input.new_zeros(1, example_input.shape[1], *sides), estimator)
        except ValueError as error:
            log.info("Images of %dx%d are not priced: %s", *sides, error)
            continue
        text = f"images of {sides[0]}x{sides[1]} in place of {height}x{width}"
        yield suggestion("input", ("", text), cost, network_cost(estimator, smaller))


def _is_fusable(choice: Choice) -> bool:
    return any(kind == "fused" for kind, _ in choice.structures)


def _rounded(side: float) -> int:
    return max(_SIDE_STEP, round(side / _SIDE_STEP) * _SIDE_STEP)


def _classifiers(model: nn.Module, example_input: Tensor, estimator: CostModel) -> Callable[[str], nn.Module] | None:
    """Return what makes stock classifiers of as many classes; None where the network is no classifier."""
    network = _traced(model, example_input, estimator)
    if not network.is_classifier:
        return None
    num_classes = network.shape(network.outputs[0])[2]
    return lambda name: stock_network(name, num_classes)


def _stock(
    make: Callable[[str], nn.Module], own_name: str, example_input: Tensor, estimator: CostModel, cost: NetworkCost
) -> Iterator[Suggestion]:
    """Yield stock networks that are no slower, the dearest first."""
    names = [name for name in RIVALS if not is_same_stock(name, own_name)]
    rivals = stock_rivals(names, make, example_input, estimator, {LATENCY: cost.latency_ms})
    costs = (NetworkCost(rival.latency_ms, rival.parameter_bytes, rival.peak_bytes) for rival in rivals)
    # One that costs exactly the same is the network itself.
    others = [(rival, after) for rival, after in zip(rivals, costs, strict=True) if after != cost]
    for rival, after in others[:_NUM_STOCK]:
        accuracy = rival.imagenet_accuracy
        text = rival.name if accuracy is None else f"{rival.name} ({accuracy:.1f} % on ImageNet)"
        yield suggestion("stock", ("", text), cost, after)


def _rank(one: Suggestion) -> tuple[bool, float]:
    """Return where a suggestion stands: by time saved for its harm, and behind those by time alone."""
    if one.harm is None:
        return True, -one.saved_ms
    return False, -one.saved_ms / max(one.harm, 1e-3)

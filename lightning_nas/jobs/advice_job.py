"""The job of the recipe `advise`: advice in the terminal, as a page and as data, and the changed network."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lightning_nas.estimator import Estimator
from lightning_nas.io.numbers import check_number, check_numbers
from lightning_nas.io.writing import write_text
from lightning_nas.jobs.advice_tables import advice_tables, advice_title
from lightning_nas.jobs.advise import MOST_HARM, Advice, advise_on
from lightning_nas.jobs.apply_advice import apply_advice
from lightning_nas.jobs.inputs import prepare
from lightning_nas.jobs.job_run import JobRun
from lightning_nas.jobs.networks import BUILDERS, make_network, network_settings, stock_name, stock_variant
from lightning_nas.jobs.search_data import SearchData
from lightning_nas.report.advice import advice_page
from lightning_nas.supernet.rebuilding import Rebuilding
from lightning_nas.supernet.subnet_files import write_subnet

__all__ = ["AdvicePlan", "give_advice"]

log = logging.getLogger(__name__)

_NUM_IMAGES = 192
_BATCHES_AT_MOST = 10_000


@dataclass(frozen=True)
class AdvicePlan:
    """What advice is given, and what is made of it.

    Attributes:
        image_size: Side of the images in pixels, or height and width.
        num_classes: Number of classes; with data theirs counts.
        num_images: Training images by which harm is measured; 0 for none, None for 192 where data is given.
        most_harm: The most harm of the steps in sum, see `lightning_nas.jobs.advise.MOST_HARM`.
        stock: Whether stock networks are compared.
        apply: Whether the changed network is written.
    """

    image_size: int | Sequence[int] = 224
    num_classes: int = 1000
    num_images: int | None = None
    most_harm: float = MOST_HARM
    stock: bool = True
    apply: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.image_size, Sequence):
            check_number("image_size", self.image_size, whole=True, least=1)
        elif len(self.image_size) != 2:
            raise ValueError(f"`image_size` must be one side, or height and width; got {self.image_size}.")
        else:
            check_numbers("image_size", self.image_size, whole=True, least=1)
        check_number("num_classes", self.num_classes, whole=True, least=1)
        if self.num_images is not None:
            check_number("num_images", self.num_images, whole=True, least=0)
        if self.num_images == 1:
            raise ValueError("`num_images` must be 0, or 2 and more, for fitting and for judging; got 1.")
        check_number("most_harm", self.most_harm, least=0)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the images without data."""
        if isinstance(self.image_size, Sequence):
            height, width = self.image_size
            return height, width
        return self.image_size, self.image_size


def give_advice(
    run: JobRun,
    device: str,
    estimator: Callable[[str], Estimator],
    network: partial[nn.Module],
    data: partial[SearchData],
    plan: AdvicePlan,
) -> Advice:
    """Say where a network loses time on a device, and what to change; nothing is trained.

    Args:
        run: Where to write.
        device: Name of a shipped device, or the path of a table.
        estimator: Makes the estimator of the device.
        network: Makes the network of `num_classes`.
        data: Makes the data by whose images harm is measured, of `image_size`; without a ``root`` there is none.
        plan: What advice is given.

    Raises:
        ValueError: No such device or network, or data without trained weights; before anything is priced.
    """
    chip = estimator(device)
    # Those that take a folder are embedded digits without one, unless their images are asked for.
    is_given = data.keywords.get("root", "") is not None
    num_images = (_NUM_IMAGES if is_given else 0) if plan.num_images is None else plan.num_images
    if num_images:
        _refuse_untrained(network)
    module = data(image_size=plan.image_size) if is_given or num_images else None
    num_classes = plan.num_classes if module is None else module.num_classes
    size = (3, *plan.sides) if module is None else tuple(module.input_size)
    model, example = make_network(network, num_classes).eval(), torch.zeros(1, *size)
    images = _images(module, num_images, run.seed) if module is not None and num_images else None
    make = partial(_variant, network, num_classes) if plan.stock else None
    advice = advise_on(model, example, chip, images, make, stock_name(network) or "", plan.most_harm)
    _write(run, advice)
    log.info("%s\nWritten to %s", advice, run.folder)
    if plan.apply:
        _apply(run, advice, model, images, network_settings(network, num_classes), _task(network))
    return advice


def _refuse_untrained(network: partial[nn.Module]) -> None:
    """Refuse a stock network without weights, which knows nothing that a change could harm."""
    if isinstance(network, partial) and network.func in BUILDERS.values() and network.keywords.get("weights") is None:
        raise ValueError(
            "`network.weights` must name the weights of a trained network where harm is measured by images, since harm"
            " to an untrained one means nothing; got null. HINT: num_images=0 asks for prices alone."
        )


def _images(data: SearchData, count: int, seed: int) -> Tensor:
    """Return training images, fewer where the data has no more."""
    torch.manual_seed(seed)
    prepare([data])
    data.setup("fit")
    found, left = [], count
    for (images, _), _ in zip(data.train_dataloader(), range(_BATCHES_AT_MOST), strict=False):
        found.append(images[:left])
        left -= len(found[-1])
        if left <= 0:
            break
    return torch.cat(found)


def _variant(network: partial[nn.Module], num_classes: int, name: str) -> nn.Module:
    return stock_variant(network, name, num_classes)


def _task(network: partial[nn.Module]) -> str:
    function = network.func if isinstance(network, partial) else network
    return next((task for task, builder in BUILDERS.items() if builder is function), "classification")


def _write(run: JobRun, advice: Advice) -> None:
    tables = advice_tables(advice.cost, advice.layers, advice.suggestions, advice.steps, advice.compiled_ms)
    title = advice_title(advice.network, advice.device, advice.cost)
    subtitle = " ".join(advice.notes) or "What each change saves is priced on the whole network; nothing was trained."
    write_text(run.folder / "report.html", advice_page(title, subtitle, tables))
    write_text(run.folder / "advice.json", json.dumps(_record(advice), indent=1))


def _record(advice: Advice) -> dict[str, object]:
    return {
        "network": advice.network,
        "device": advice.device,
        "cost": asdict(advice.cost),
        "layers": [asdict(layer) for layer in advice.layers],
        "suggestions": [asdict(one) for one in advice.suggestions],
        "steps": [asdict(step) for step in advice.steps],
        "compiled_ms": advice.compiled_ms,
        "notes": list(advice.notes),
    }


def _apply(
    run: JobRun,
    advice: Advice,
    model: nn.Module,
    images: Tensor | None,
    source: dict[str, object],
    task: str,
) -> None:
    architecture = advice.architecture
    if architecture is None:
        log.warning("There is nothing to apply: no change of this network by itself makes it faster.")
        return
    subnet = apply_advice(advice, model, images)
    latency_ms = advice.steps[-1].cost.latency_ms
    described = {"task": task, "source": source, "device": advice.device, "latency_ms": latency_ms}
    write_subnet(run.folder, architecture, Rebuilding.of(model, subnet), subnet.state_dict(), described)
    log.info("The changed network, %.4g ms: load_subnet(%r)", latency_ms, str(run.folder))

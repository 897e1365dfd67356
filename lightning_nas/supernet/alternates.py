"""Alternates: submodules of a block's leaves that run in their place where the block is of another kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

from torch import nn
from torch.nn import functional

from lightning_nas.graph.blocks import Block, BlockForm
from lightning_nas.graph.kernels import OTHER_KIND, form_of, kernel_attributes, refusal
from lightning_nas.graph.labelling import Slot
from lightning_nas.graph.width_groups import WidthGroups
from lightning_nas.supernet.composing import composed, decomposed
from lightning_nas.supernet.elastic_class import IDENTITY

__all__ = ["Kernel", "Offer", "Run", "offered", "with_alternates"]


@dataclass(frozen=True)
class Kernel:
    """A kernel of a convolution that holds larger ones.

    Attributes:
        path: The convolution.
        size: Taps along each side; those around the middle are read.
        attributes: What the convolution says of kernel and padding then.
    """

    path: str
    size: int
    attributes: Mapping[str, object]


@dataclass(frozen=True)
class Run:
    """How the leaves of a block run in one of its forms.

    Attributes:
        names: By path of a leaf the name of the submodule that runs in its place, or `IDENTITY`; empty for itself.
        kernel: The kernel of the form; None where none can be chosen.
    """

    names: Mapping[str, str]
    kernel: Kernel | None


@dataclass(frozen=True)
class Offer:
    """The forms that a block can have.

    Attributes:
        own: The form that it has in the network.
        runs: How it runs in each of its forms.
        slots: For each dimension of an alternate's parameter that of the network with the same channels.
    """

    own: BlockForm
    runs: Mapping[BlockForm, Run]
    slots: Mapping[Slot, Slot]

    @property
    def alternates(self) -> list[tuple[str, str]]:
        """Paths of the leaves that have alternates, with the names of these."""
        pairs = {pair: None for run in self.runs.values() for pair in run.names.items()}
        return [(path, name) for path, name in pairs if name not in ("", IDENTITY)]

    def run(self, form: BlockForm) -> Run:
        """Return how the block runs in a form.

        Args:
            form: The form; its kind may be ``own``.

        Raises:
            ValueError: The form is not offered.
        """
        form = replace(form, kind=self.own.kind) if form.kind == "own" else form
        if form not in self.runs:
            known = ", ".join(f"{known.kind} k{known.kernel}" for known in self.runs)
            raise ValueError(f"A block cannot run as {form.kind} k{form.kernel}; it can as {known}.")
        return self.runs[form]


def offered(model: nn.Module, offers: Sequence[tuple[Block, Sequence[BlockForm]]]) -> tuple[Offer, ...]:
    """Give the leaves of blocks what their forms need, in place: alternates, and kernels as large as the largest.

    The network computes what it did in the blocks' own forms.

    Args:
        model: The network, of plain modules.
        offers: Blocks, each with the forms that it can have; its own always is one.

    Raises:
        ValueError: A block cannot have a form; the network is unchanged then.
    """
    for block, forms in offers:
        for form in forms:
            if reason := refusal(model, block, form):
                raise ValueError(reason)
    # A convolution that projects for one block may expand for the next one, and has the alternates of that.
    expanding = {path for block, _ in offers for path in (block.expand, block.expand_norm)}
    return tuple(_Builder(model, block, expanding).offer(forms) for block, forms in offers)


def with_alternates(groups: WidthGroups, offers: Sequence[Offer]) -> WidthGroups:
    """Return width groups that the parameters of alternates are in, too.

    Args:
        groups: Those of the network without alternates.
        offers: The blocks that have some.
    """
    slots = dict(groups.slots)
    rows = [dict(group.slots) for group in groups.groups]
    for new, old in (pair for offer in offers for pair in offer.slots.items()):
        if old in groups.slots:
            slots[new] = groups.slots[old]
            for row in rows:
                if old in row:
                    row[new] = row[old]
    found = (replace(group, slots=tuple(row.items())) for group, row in zip(groups.groups, rows, strict=True))
    return replace(groups, groups=tuple(found), slots=slots)


@dataclass
class _Builder:
    """Makes the alternates of one block.

    Attributes:
        model: The network.
        block: The block.
        expanding: Paths of all convolutions that expand, and of the norms behind them.
        slots: What `Offer` says, as far as it is known.
    """

    model: nn.Module
    block: Block
    expanding: Collection[str]
    slots: dict[Slot, Slot] = field(default_factory=dict)

    def offer(self, forms: Sequence[BlockForm]) -> Offer:
        block = self.block
        found = tuple(dict.fromkeys([block.own, *(form_of(block, form) for form in forms)]))
        paths = {block.kind: block.depthwise or block.expand}
        names: dict[str, dict[str, str]] = {block.kind: {}}
        if (other := OTHER_KIND.get(block.kind)) in {form.kind for form in found}:
            assert other is not None
            paths[other], names[other] = self._fused() if other == "fused" else self._separated()
            names[block.kind] = dict.fromkeys(names[other], "")
        runs: dict[BlockForm, Run] = {}
        for kind, path in paths.items():
            sizes = [form.kernel for form in found if form.kind == kind]
            conv = _conv(self.model, path)
            own = conv.kernel_size[0]
            kernels = {size: Kernel(path, size, kernel_attributes(conv, size)) for size in sizes}
            if max(sizes) > own:
                _enlarge(conv, kernels[max(sizes)])
            is_fixed = set(sizes) == {max(block.kernel)}
            runs |= {BlockForm(kind, s): Run(names[kind], None if is_fixed else kernels[s]) for s in sizes}
        return Offer(block.own, {form: runs[form] for form in found}, self.slots)

    def _fused(self) -> tuple[str, dict[str, str]]:
        """Give an inverted bottleneck's leaves their alternates; return the path of its KxK convolution, and names."""
        block = self.block
        expand, depthwise = _conv(self.model, block.expand), _conv(self.model, block.depthwise)
        modules = [self._module(path) for path in (block.expand_norm, block.expand_activation, block.norm)]
        conv, norm = composed(expand, modules[0], modules[1], depthwise, modules[2])
        path = self._add(block.expand, "fused", conv)
        self.slots |= {(f"{path}.{name}", 0): (f"{block.depthwise}.weight", 0) for name, _ in conv.named_parameters()}
        self.slots[f"{path}.weight", 1] = (f"{block.expand}.weight", 1)
        names = {block.expand: "fused"}
        if norm is not None:
            self._like(self._add(block.expand_norm, "fused", norm), block.expand_norm)
            names[block.expand_norm] = "fused"
        gone = [block.depthwise, block.norm, *([block.activation] if block.expand_activation else [])]
        # A norm that applies its activation itself takes it along.
        is_within = bool(block.norm) and block.activation.startswith(f"{block.norm}.")
        names |= {gone_path: IDENTITY for gone_path in (gone[:2] if is_within else gone) if gone_path}
        return path, names | self._projecting("fused")

    def _separated(self) -> tuple[str, dict[str, str]]:
        """Give a fused block's leaves their alternates; return the path of its depthwise convolution, and names."""
        block = self.block
        norm, act = self.model.get_submodule(block.expand_norm), self.model.get_submodule(block.expand_activation)
        parts, behind = decomposed(_conv(self.model, block.expand), norm, act)
        path = self._add(block.expand, "ibn", nn.Sequential(*parts))
        outputs = (f"{block.expand}.weight", 0)
        self.slots |= {(f"{path}.0.weight", 0): outputs, (f"{path}.{len(parts) - 1}.weight", 0): outputs}
        self.slots[f"{path}.0.weight", 1] = (f"{block.expand}.weight", 1)
        self._like(f"{path}.1", block.expand_norm)
        if len(parts) == 4:
            self._like(f"{path}.2", block.expand_activation)
        self._like(self._add(block.expand_norm, "ibn", behind), block.expand_norm)
        names = {block.expand: "ibn", block.expand_norm: "ibn"}
        return f"{path}.{len(parts) - 1}", names | self._projecting("ibn")

    def _projecting(self, kind: str) -> dict[str, str]:
        names = {}
        for path in (self.block.project, self.block.project_norm):
            if path and path not in self.expanding:
                self._like(self._add(path, kind, deepcopy(self.model.get_submodule(path))), path)
                names[path] = kind
        return names

    def _module(self, path: str) -> nn.Module | None:
        return self.model.get_submodule(path) if path else None

    def _add(self, path: str, name: str, module: nn.Module) -> str:
        owner = self.model.get_submodule(path)
        assert not hasattr(owner, name)
        owner.add_module(name, module)
        return f"{path}.{name}"

    def _like(self, new: str, old: str) -> None:
        """Note that the parameters of a module have the channels of those of another one."""
        module = self.model.get_submodule(new)
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            self.slots |= {(f"{new}.{name}", dim): (f"{old}.{name}", dim) for dim in range(tensor.ndim)}


def _conv(model: nn.Module, path: str) -> nn.Conv2d:
    conv = model.get_submodule(path)
    assert isinstance(conv, nn.Conv2d)
    return conv


def _enlarge(conv: nn.Conv2d, kernel: Kernel) -> None:
    """Put zeros around a convolution's kernel: it computes what it did."""
    margin = (kernel.size - conv.kernel_size[0]) // 2
    conv.weight.data = functional.pad(conv.weight.data, (margin,) * 4)
    vars(conv).update(kernel.attributes)

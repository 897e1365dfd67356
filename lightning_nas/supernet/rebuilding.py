"""`Rebuilding`: what tells a derived network from its source, as data, so that PyTorch alone can make it again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from torch import Tensor, nn

from lightning_nas.io.reading import JsonObject, listed, number, only, shown, text, truth, whole
from lightning_nas.space._limits import MAX_KERNEL, MAX_PATH, MAX_WIDTH
from lightning_nas.supernet import rebuild

__all__ = ["Rebuilding", "rebuild_script"]

T = TypeVar("T")
Value: TypeAlias = int | float | str | tuple[int, ...] | None

_FIELDS = ("identities", "replaced", "attributes", "tensors", "requires_grad")
_CONVOLUTION = "torch.nn.Conv2d"
# Of what a file says is loaded: modules and tensors of the largest networks times ten, 1 GiB of weights.
_MAX_PARTS, _MAX_SEQUENCE, _MAX_DIMS, _MAX_PARAMETERS = 2**15, 8, 6, 2**28
# What a module says of its sizes, with the largest value that a file can give it.
_WIDTHS = (
    *("in_channels", "out_channels", "in_features", "out_features", "groups", "num_features", "num_groups"),
    *("num_channels", "num_parameters", "normalized_shape", "last_channel", "head_hidden_size"),
)
_SIZES: Mapping[str, int] = {
    **dict.fromkeys(_WIDTHS, MAX_WIDTH),
    **dict.fromkeys(("kernel_size", "stride", "dilation"), MAX_KERNEL),
    **dict.fromkeys(("padding", "output_padding", "_reversed_padding_repeated_twice"), MAX_KERNEL**2),
}
_NUMBERS = ("eps", "momentum")
_PADDINGS = ("same", "valid")


@dataclass(frozen=True)
class Rebuilding:
    """What tells a derived network from its source; weights aside.

    Attributes:
        identities: Paths of the modules that are an ``nn.Identity``.
        replaced: By path of a module those of the source's modules whose copies take its place, one or a sequence;
            ``torch.nn.Conv2d`` for a new convolution.
        attributes: By path, after that, what a module says of its sizes.
        tensors: By name the shapes of parameters and buffers; None for one that is left out.
        requires_grad: By name whether a parameter learns, where it does not as in the source.
    """

    identities: tuple[str, ...]
    replaced: Mapping[str, tuple[str, ...]]
    attributes: Mapping[str, Mapping[str, Value]]
    tensors: Mapping[str, tuple[int, ...] | None]
    requires_grad: Mapping[str, bool]

    @classmethod
    def of(cls, source: nn.Module, subnet: nn.Module) -> Rebuilding:
        """Compare a network with one that was derived of its supernet.

        Args:
            source: The network, plain.
            subnet: The derived network.

        Raises:
            ValueError: The derived network holds a module that is like none of the source.

        Example::

            >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
            >>> found = Rebuilding.of(net, nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity()))
            >>> found.identities, found.attributes["0"], found.tensors["0.bias"]
            (('1',), {'out_channels': 4}, (4,))
        """
        identities, replaced = _replacements(source, subnet)
        plain = deepcopy(source)
        cls(identities, replaced, {}, {}, {}).apply(plain)
        attributes = {}
        pairs = dict(subnet.named_modules())
        for path, module in plain.named_modules():
            if path not in pairs or type(module) is not type(pairs[path]):
                raise ValueError(f"Module {path!r} of the derived network is none of its source.")
            mine, theirs = _said(module), _said(pairs[path])
            if other := {name: value for name, value in theirs.items() if mine.get(name) != value}:
                attributes[path] = other
        mine_all, theirs_all = _tensors(plain), _tensors(subnet)
        tensors = {
            name: None if theirs_all.get(name) is None else tuple(theirs_all[name].shape)
            for name in dict.fromkeys((*mine_all, *theirs_all))
            if _shape(mine_all.get(name)) != _shape(theirs_all.get(name))
        }
        learns = {
            name: tensor.requires_grad
            for name, tensor in theirs_all.items()
            if isinstance(tensor, nn.Parameter) and tensor.requires_grad != _learns(plain, name)
        }
        return cls(identities, replaced, attributes, tensors, learns)

    def apply(self, network: nn.Module) -> None:
        """Give a source network the modules and sizes of the derived one, in place; weights are to be loaded then.

        Args:
            network: The network, plain, as it was before its conversion.

        Raises:
            ValueError: It is of another network.
        """
        modules = dict(network.named_modules(remove_duplicate=False))
        likes = (path for paths in self.replaced.values() for path in paths if path != _CONVOLUTION)
        if missing := [path for path in (*self.identities, *self.replaced, *likes) if path and path not in modules]:
            raise ValueError(f"it has no module {missing[0]!r}.")
        if "" in (*self.identities, *self.replaced):
            raise ValueError("a network as a whole is not replaced.")
        rebuild.change(network, {**self.to_dict(), "attributes": {}, "tensors": {}, "requires_grad": {}})
        modules = dict(network.named_modules(remove_duplicate=False))
        for path, values in self.attributes.items():
            if path not in modules or values.keys() - vars(modules[path]).keys():
                raise ValueError(f"it has no module {path!r} with {', '.join(values)}.")
        for name in (*self.tensors, *self.requires_grad):
            path, _, attribute = name.rpartition(".")
            if path not in modules or attribute not in {**modules[path]._parameters, **modules[path]._buffers}:
                raise ValueError(f"it has no tensor {name!r}.")
        rebuild.change(network, {**self.to_dict(), "identities": [], "replaced": {}})

    def to_dict(self) -> dict[str, object]:
        """Return builtins that `from_dict` reads back, and ``rebuild.py``."""
        return {
            "identities": list(self.identities),
            "replaced": {path: list(likes) for path, likes in self.replaced.items()},
            "attributes": {path: dict(values) for path, values in self.attributes.items()},
            "tensors": dict(self.tensors),
            "requires_grad": dict(self.requires_grad),
        }

    @classmethod
    def from_dict(cls, data: JsonObject) -> Rebuilding:
        """Return what `to_dict` wrote.

        Raises:
            ValueError: A field is missing or of the wrong form, or a size beyond those of any network.
        """
        found = only(data, _FIELDS, "`rebuild`")
        if missing := [name for name in _FIELDS if name not in found]:
            raise ValueError(f"`rebuild` lacks the field {missing[0]!r}.")
        identities = listed(found["identities"], "identities", _MAX_PARTS)
        tensors = dict(_named(found["tensors"], "tensors", _shape_of))
        if sum(math.prod(shape) for shape in tensors.values() if shape is not None) > _MAX_PARAMETERS:
            raise ValueError(f"`tensors` must hold at most {_MAX_PARAMETERS} values.")
        return cls(
            tuple(text(path, "identities", MAX_PATH) for path in identities),
            dict(_named(found["replaced"], "replaced", _likes_of)),
            dict(_named(found["attributes"], "attributes", _attributes_of)),
            tensors,
            dict(_named(found["requires_grad"], "requires_grad", truth)),
        )


def rebuild_script() -> str:
    """Return the text of ``rebuild.py``, which makes a saved network again without this package."""
    return Path(rebuild.__file__).read_text(encoding="utf-8")


def _replacements(source: nn.Module, subnet: nn.Module) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Return the paths of modules that are identities, and of those that are of another class."""
    identities: list[str] = []
    replaced: dict[str, tuple[str, ...]] = {}
    known = list(source.named_modules())
    todo, seen = [("", source, subnet)], {id(source)}
    while todo:
        path, mine, theirs = todo.pop()
        is_same = type(mine) is type(theirs)
        if type(theirs) is nn.Identity and not is_same:
            identities.append(path)
        elif not (is_same and _rest(mine) == _rest(theirs)) and (likes := _likes(theirs, known)):
            replaced[path] = likes
        elif not is_same:
            raise ValueError(f"Module {path!r} is a {type(theirs).__name__}, like none of its source.")
        else:
            for name, child in mine.named_children():
                other = getattr(theirs, name, None)
                if other is None:
                    raise ValueError(f"Module {path!r} has no {name!r}, which that of its source has.")
                if id(child) not in seen:
                    todo.append((f"{path}.{name}".lstrip("."), child, other))
                seen.add(id(child))
    return tuple(identities), replaced


def _likes(module: nn.Module, known: list[tuple[str, nn.Module]]) -> tuple[str, ...]:
    """Return the paths of modules of which copies make up a module; empty where there are none."""
    if found := [path for path, other in known if path and _is_like(other, module)]:
        return (found[0],)
    if type(module) is nn.Sequential:
        parts = [_likes(child, known) for child in module]
        return tuple(path for part in parts for path in part) if all(len(part) == 1 for part in parts) else ()
    return (_CONVOLUTION,) if _is_like(nn.Conv2d(1, 1, 1), module) else ()


def _is_like(module: nn.Module, other: nn.Module) -> bool:
    """Return whether modules are alike but for sizes and weights."""
    if type(module) is not type(other) or _rest(module) != _rest(other):
        return False
    mine, theirs = dict(module.named_children()), dict(other.named_children())
    return mine.keys() == theirs.keys() and all(_is_like(child, theirs[name]) for name, child in mine.items())


def _rest(module: nn.Module) -> dict[str, object]:
    """Return what decides what a leaf does, besides sizes and weights; nothing for modules that hold others."""
    if any(True for _ in module.children()):
        return {}
    values = {name: value for name, value in vars(module).items() if name != "training"}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, bool | int | float | str | None) and not (name in _SIZES or name in _NUMBERS)
    }


def _said(module: nn.Module) -> dict[str, Value]:
    """Return what a module says of its sizes."""
    found: dict[str, Value] = {}
    for name, value in vars(module).items():
        is_size = name in _SIZES and not isinstance(value, bool)
        if is_size and isinstance(value, int | str):
            found[name] = value
        elif is_size and isinstance(value, list | tuple) and all(isinstance(item, int) for item in value):
            found[name] = tuple(value)
        elif name in _NUMBERS and isinstance(value, int | float | None):
            found[name] = value
    return found


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by the first name of each module; one of two modules has two names."""
    return {
        f"{path}.{name}".lstrip("."): tensor
        for path, module in network.named_modules()
        for name, tensor in (*module.named_parameters("", False, False), *module.named_buffers("", False, False))
    }


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _learns(network: nn.Module, name: str) -> bool:
    """Return whether a parameter that is put in a network learns."""
    path, _, attribute = name.rpartition(".")
    module = network.get_submodule(path)
    parameter = getattr(module, attribute)
    like = next(module.parameters(recurse=False)) if parameter is None else parameter
    return bool(like.requires_grad)


def _named(data: object, name: str, read: Callable[[object, str], T]) -> Iterator[tuple[str, T]]:
    """Yield the entries of an object of a file, each read by a function."""
    if not isinstance(data, dict) or len(data) > _MAX_PARTS:
        raise ValueError(f"`{name}` must be an object of at most {_MAX_PARTS} fields; got {shown(data)}.")
    for key, value in data.items():
        yield text(key, name, MAX_PATH), read(value, name)


def _likes_of(value: object, name: str) -> tuple[str, ...]:
    likes = tuple(text(path, name, MAX_PATH) for path in listed(value, name, _MAX_SEQUENCE))
    if not likes or "" in likes:
        raise ValueError(f"`{name}` must hold paths of modules; got {shown(value)}.")
    return likes


def _shape_of(value: object, name: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    return tuple(whole(size, name, _MAX_PARAMETERS, 0) for size in listed(value, name, _MAX_DIMS))


def _attributes_of(value: object, name: str) -> dict[str, Value]:
    found = only(value, (*_SIZES, *_NUMBERS), f"`{name}`")
    return {key: _attribute(item, key) for key, item in found.items()}


def _attribute(value: object, name: str) -> Value:
    if name in _NUMBERS:
        return None if value is None else number(value, name, 1.0)
    if name == "padding" and value in _PADDINGS:
        return str(value)
    if isinstance(value, list):
        return tuple(whole(item, name, _SIZES[name], 0) for item in listed(value, name, _MAX_DIMS))
    return whole(value, name, _SIZES[name], 0)

"""Replacement of modules in a network, refused if something would be lost, and undone on request."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

__all__ = ["check_replaceable", "replace_modules"]

_TENSORS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
_LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)


def check_replaceable(model: nn.Module, paths: Iterable[str]) -> None:
    """Raise a ValueError unless modules can be replaced by others of the same weights without a loss.

    Args:
        model: The network that holds them.
        paths: What is to be replaced, with all that it holds.

    Raises:
        ValueError: One has hooks, parametrizations or a forward pass of its own, or shares weights with another place.
    """
    roots = {path: model.get_submodule(path) for path in paths}
    places = {id(root): path for path, root in roots.items()}
    for path, root in roots.items():
        if places[id(root)] != path:
            raise ValueError(
                f"Modules {path!r} and {places[id(root)]!r} are one and the same; each block needs weights of its own."
            )
        for name, module in root.named_modules(prefix=path):
            _check_bare(name, module)
    _check_unshared(model, list(roots.values()))


def replace_modules(model: nn.Module, new: Mapping[str, nn.Module]) -> Callable[[], None]:
    """Replace modules of a network wherever it holds them, and return a function that undoes it.

    Args:
        model: The network; changed in place.
        new: What takes the place of the module of each path.
    """
    wanted = {id(model.get_submodule(path)): module for path, module in new.items()}
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if id(child) in wanted
    ]
    for parent, name, child in places:
        setattr(parent, name, wanted[id(child)])

    def undo() -> None:
        for parent, name, child in places:
            setattr(parent, name, child)

    return undo


def _check_bare(path: str, module: nn.Module) -> None:
    if is_parametrized(module):
        raise ValueError(
            f"Module {path!r} has parametrizations, which its converted form would lose. HINT: make them permanent"
            " first: `torch.nn.utils.parametrize.remove_parametrizations`."
        )
    tensors = [name for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))]
    others = [name for name in tensors if name not in _TENSORS]
    if others and isinstance(module, _LAYERS):
        raise ValueError(
            f"Module {path!r} holds {', '.join(others)} in place of a plain weight, as weight norm and pruning leave"
            " it. HINT: make that permanent first: `torch.nn.utils.remove_weight_norm`, or"
            " `torch.nn.utils.prune.remove(module, 'weight')`."
        )
    hooks = [name.strip("_") for name, found in vars(module).items() if name.endswith("_hooks") and found]
    if hooks:
        raise ValueError(
            f"Module {path!r} has {', '.join(hooks)}, which its converted form would lose. HINT: remove them, and"
            " register hooks on the network that `supernet_from` or `derive` returns."
        )
    if "forward" in vars(module):
        raise ValueError(f"Module {path!r} has a `forward` set on the instance, which its converted form would lose.")
    for name, parameter in module.named_parameters(recurse=False):
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise ValueError(
                f"Parameter '{path}.{name}' has hooks on its gradient, which the converted one would lose. HINT: remove"
                " them, and register them on the parameters of what `supernet_from` or `derive` returns."
            )


def _check_unshared(model: nn.Module, roots: list[nn.Module]) -> None:
    """Check that nothing with weights inside of the modules is held or shared by anything else."""
    inside = {id(module) for root in roots for module in root.modules() if any(True for _ in module.parameters())}
    inside -= {id(root) for root in roots}  # these are replaced wherever they are
    inside |= {id(parameter) for root in roots for parameter in root.parameters()}
    holders: dict[int, list[str]] = defaultdict(list)
    for path, module in model.named_modules():
        parts = (*module._modules.items(), *module._parameters.items())
        for name, part in parts:
            if id(part) in inside:
                holders[id(part)].append(f"{path}.{name}".lstrip("."))
    for names in holders.values():
        if len(names) > 1:
            raise ValueError(
                f"{' and '.join(map(repr, names))} are one and the same; converted blocks need weights of their own."
            )

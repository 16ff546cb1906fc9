"""Models that accelerate has spread over devices and disks, as the plain modules that they were.

`accelerate.dispatch_model`, `disk_offload` and the `device_map` of transformers put a hook on each
module: its parameters are on the meta device, its forward() is replaced, and the hook puts values
into it before that is called and takes them out afterwards. What is captured, folded and run here
is a copy without hooks, of which each tensor is read from where its hook would have read it. The
user's module stays as it is.
"""

# accelerate's hooks have no type here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from halfsafe.errors import BadInput

HOOK, FORWARD = "_hf_hook", "_old_forward"
"""Attributes that accelerate gives a module: what is called around forward(), and that itself."""

ADDED = ("to", "cuda", "npu", "xpu", "mlu", "sdaa", "musa", "neuron")
"""Methods that it replaces by ones that warn."""

Place = tuple[Mapping[str, Tensor], str, torch.device]
"""A tensor that is elsewhere: what holds it, under which name, and where it is computed with."""


def is_dispatched(module: nn.Module) -> bool:
    """Whether accelerate has put hooks on a module or a part of it."""
    return any(HOOK in vars(part) for part in module.modules())


def plain(module: nn.Module) -> tuple[nn.Module, Callable[[str], Tensor]]:
    """A dispatched module without its hooks, and what reads the tensors that it lacks.

    Tensors are the module's own. Raises BadInput for one that is spread over several devices.
    """
    places = _places(module)
    tensors = [*module.parameters(), *module.buffers()]
    devices = {x.device for x in tensors if not x.is_meta} | {at for _, _, at in places.values()}
    if len(devices) > 1:
        raise BadInput(
            f"{type(module).__name__} is spread over {', '.join(sorted(map(str, devices)))}: it is "
            "measured on one device, so load it with a device_map of that and 'disk'"
        )
    kept = chain(tensors, (vars(part)[HOOK] for part in _hooked(module)))
    made = copy.deepcopy(module, {id(x): x for x in kept})
    for part in list(_hooked(made)):
        own = vars(part)
        forward = own.pop(FORWARD, None)
        for name in (HOOK, "forward", *ADDED):
            own.pop(name, None)
        if forward is not None and getattr(forward, "__func__", None) is not type(part).forward:
            part.forward = forward  # it was not that of the class before either

    def read(name: str) -> Tensor:
        held, key, device = places[name]
        return held[key].to(device)

    return made, read


def _hooked(module: nn.Module) -> Iterator[nn.Module]:
    return (part for part in module.modules() if HOOK in vars(part))


def _places(module: nn.Module) -> dict[str, Place]:
    """Where each tensor lies that is on the meta device, by its full name."""
    found: dict[str, Place] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        for hook in _each(vars(part).get(HOOK)):
            held: Mapping[str, Tensor] | None = getattr(hook, "weights_map", None)
            if held is None:
                continue
            deep = hook.place_submodules
            names = chain(
                part.named_parameters("", deep, False), part.named_buffers("", deep, False)
            )
            for name, x in names:
                if x.is_meta:
                    device = torch.device(hook.execution_device)
                    found[f"{path}.{name}".lstrip(".")] = held, name, device
    return found


def _each(hook: Any) -> Iterator[Any]:
    """A hook, or each of a row of them."""
    if hook is None:
        return iter(())
    return chain.from_iterable(map(_each, hook.hooks)) if hasattr(hook, "hooks") else iter((hook,))

"""A fixed network of a directory, in the form in which it is deployed: a directory again.

What is proved is what has been written: a folder with the rescaled files, read by the library as
any user would read it.
"""

# transformers and diffusers are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import frexp, ldexp
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Literal
from weakref import finalize

import torch
from torch import Tensor, nn

from halfsafe.checkpoint import tensors_in
from halfsafe.errors import BadInput, FoldError, first_line
from halfsafe.frontends.huggingface.folder import Network, write_network
from halfsafe.frontends.huggingface.generation import generates, greedy, same
from halfsafe.frontends.huggingface.names import Names
from halfsafe.frontends.huggingface.network import load
from halfsafe.frontends.huggingface.outputs import View
from halfsafe.frontends.huggingface.settings import Governed
from halfsafe.frontends.torch.arithmetic import arrays
from halfsafe.frontends.torch.deliver import LARGE, HalfModule
from halfsafe.frontends.torch.folded import Folded
from halfsafe.frontends.torch.program import same_draws
from halfsafe.frontends.torch.source import TorchSource
from halfsafe.frontends.torch.trees import cast, flat
from halfsafe.recipe import Recipe, Setting
from halfsafe.samples import Call
from halfsafe.source import Arrays


def recipe_of(
    network: Network, names: Names, before: TorchSource, after: TorchSource, known: Governed
) -> Recipe:
    """What an edited source asks of the network's directory, under the names of its files.

    Raises FoldError where the directory cannot hold it.
    """
    folded = Folded.read(before.opened, before.program, after.program)
    settings: dict[str, Setting] = {}
    for name, number in folded.attributes.items():
        if name not in known:
            raise FoldError(
                f"no setting of '{network.path}' gives {name}, which has to be {number}"
            )
        path, default = known[name]
        setting = Setting(default, _exponent(default, number))
        if settings.setdefault(path, setting) != setting:
            raise FoldError(f"the setting {path} would have to be {number} and another number")
    made = folded.recipe(network.kind, settings)
    return names.as_in_files(made)


def _exponent(number: float, stored: float) -> int:
    """k of stored == number * 2**-k."""
    k = frexp(number)[1] - frexp(stored)[1]
    assert ldexp(number, -k) == stored, f"{stored} is no {number} times a power of two"
    return k


class Scratch:
    """A temporary folder that is gone with whoever holds this."""

    def __init__(self) -> None:
        self.path = Path(mkdtemp(prefix="halfsafe-"))
        finalize(self, rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True)
class NetworkDelivery:
    """One network of a directory with its recipe, written to a folder that is gone with this.

    `view` is of the outputs that somebody deploys. `size` is how many entries its constants have.
    """

    network: Network
    plan: Recipe
    view: View
    size: int
    notes: tuple[str, ...] = ()

    @cached_property
    def folder(self) -> Scratch:
        """Where the rescaled network has been written.

        FP16 may not hold a rescaled tensor of a checkpoint in FP16; FP32 does.
        """
        made, files = Scratch(), tensors_in(self.network.path)
        narrow = any(file.entries[name].dtype == "F16" for name, file in files.items())
        write_network(self.network, self.plan, made.path, "float32" if narrow else None)
        return made

    def loaded(self, dtype: torch.dtype) -> nn.Module:
        """What the library reads from there."""
        return load(self.network, dtype, self.folder.path)

    def float32(self) -> nn.Module:
        return self.loaded(torch.float32)

    def half(self) -> nn.Module:
        return self.loaded(torch.float16)

    @cached_property
    def _exact(self) -> nn.Module:
        return self.float32()

    @cached_property
    def _half(self) -> nn.Module:
        return self.half()

    @cached_property
    def _seen(self) -> tuple[nn.Module, nn.Module]:
        """Both as they are looked at, once: transformers hooks into parts that copies share."""
        return self.view.of(self._exact), self.view.of(self._half)

    def runnable(self) -> HalfModule:
        return HalfModule(self._half)

    def exact_outputs(self, call: Call) -> Arrays:
        """What the network gives in FP32 as it is read again."""
        return self._outputs(self._seen[0], call)

    def half_outputs(self, call: Call) -> Arrays | None:
        """The same in FP16, in PyTorch's own kernels; None where these would take minutes."""
        if self.size > LARGE:
            return None
        args, kwargs = cast((call.args, call.kwargs), torch.float16)
        return self._outputs(self._seen[1], call.holding(args, kwargs))

    def _outputs(self, module: nn.Module, call: Call) -> Arrays:
        with torch.no_grad(), same_draws():
            return arrays(flat(module(*call.args, **call.kwargs)))

    def generation(self, original: nn.Module, call: Call, tokens: int) -> tuple[str, list[str]]:
        """What is wrong with generating by the rescaled network in FP32, "" if nothing is, and
        notes on FP16."""
        if not generates(original, call):
            return "", []
        try:
            known = greedy(original, call, tokens)
        except Exception as error:
            return "", [f"nothing is generated: the original itself fails: {first_line(error)}"]
        if not torch.equal(greedy(self._exact, call, tokens), known):
            return "with its cache, the class generates other tokens in FP32", []
        if self.size > LARGE:
            return "", []
        count = same(greedy(self._half, call, tokens), known)
        length = known.shape[-1]
        found = "all" if count == length else f"the first {count}"
        return "", [f"of {length} tokens generated with a cache, {found} are the same in FP16"]

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._exact.state_dict())

    def recipe(self) -> Recipe:
        return self.plan

    def apply_to(self, model: nn.Module) -> nn.Module:
        if self.plan.settings:
            raise FoldError(
                f"the plan changes {next(iter(self.plan.settings))} in the configuration as well: "
                "load what save() writes"
            )
        model.load_state_dict(self.state_dict())
        return model

    def save(
        self,
        path: Path,
        dtype: Literal["float16", "float32"],
        io: Literal["float32", "float16"],
        labels: Mapping[str, Mapping[str, str]],
    ) -> None:
        del path, dtype, io, labels
        raise BadInput("a network of a directory is saved with its directory")

"""The fixed model in the forms in which people deploy it."""

# torch.fx and torch.export are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from warnings import warn

import torch
from torch import Tensor, nn

from halfsafe.atomic import atomically
from halfsafe.errors import BadInput, FoldError
from halfsafe.formats import FloatFormat
from halfsafe.frontends.torch.arithmetic import arrays
from halfsafe.frontends.torch.caches import is_cache
from halfsafe.frontends.torch.constants import Rounded
from halfsafe.frontends.torch.folded import Folded
from halfsafe.frontends.torch.model import Opened, run_model
from halfsafe.frontends.torch.private import (
    TorchDispatchMode,
    tree_leaves,
    tree_map_only,
    types_only,
)
from halfsafe.frontends.torch.program import Program, same_draws
from halfsafe.frontends.torch.quiet import exporting
from halfsafe.frontends.torch.sizes import free_sizes
from halfsafe.frontends.torch.trees import cast, difference, flat, places_of, unknown_in
from halfsafe.frontends.torch.weights_file import WeightsFile, write_tensors
from halfsafe.recipe import Recipe
from halfsafe.samples import Call
from halfsafe.source import Arrays
from halfsafe.verdict import TOLERANCE

LARGE = 20_000_000
"""Constants beyond which PyTorch's half kernels on a CPU take minutes."""


@dataclass(frozen=True)
class TorchDelivery:
    """`original` is the user's model, `before` its capture and `after` the edited capture.

    `deployed` is `after` with what FP16 cannot hold replaced.
    """

    original: Opened
    before: Program
    after: Program
    deployed: Program
    call: Call
    notes: tuple[str, ...] = ()

    def float32(self) -> nn.Module:
        """A new FP32 module with the function of the original, and constants of its own."""
        return self.after.module(torch.float32, share=False)

    def half(self) -> nn.Module:
        """The FP16 deployable. FP32 inputs are cast; the model's own upcasts to FP32 stay."""
        return self.deployed.module(torch.float16)

    def state_dict(self) -> dict[str, Tensor]:
        """The original's state_dict with the folded constants, when constants alone suffice.

        Raises FoldError when the plan needs anything else: operators, or numbers that modules keep
        as attributes (epsilons, clip bounds), which `apply_to` sets too.
        """
        folded = self._tensors_alone()
        return {name: source.read() for name, source in folded.tensors.items()}

    def recipe(self) -> Recipe:
        """Exponents by the names of the original's state_dict, of which tied ones are all there.

        Raises FoldError like `state_dict`.
        """
        return self._tensors_alone().recipe(self.original.name)

    def _tensors_alone(self) -> Folded:
        """What is folded. Raises FoldError if it is more than tensors."""
        folded = self._folded
        if folded.untied:
            raise FoldError(
                f"{' and '.join(folded.untied[:2])} are one tensor in {self.original.name}, and "
                "the plan needs two: use apply_to(model), which unties them, or save a .pt2"
            )
        if folded.attributes:
            name, number = next(iter(folded.attributes.items()))
            raise FoldError(
                f"the plan needs {name} = {number:.6g} as well, which no state_dict holds: use "
                "apply_to(model), which sets both, or save a .pt2"
            )
        return folded

    def apply_to(self, model: nn.Module) -> nn.Module:
        """Loads the folded constants into a model of the original's class, epsilons included.

        Changes `model` in place and returns it. Tied parameters that are stored at different
        exponents are untied. Raises FoldError, leaving `model` as it was, when the plan needs more
        than constants. Warns where `save_pretrained` would lose a part of it.
        """
        self._folded.apply(model)
        lost = [*self._folded.attributes, *self._folded.untied]
        if lost and hasattr(model, "save_pretrained"):
            warn(
                f"save_pretrained does not write {lost[0]}, which the plan needs: to have a "
                "directory, give the original one to halfsafe.fix_directory",
                stacklevel=3,
            )
        return model

    def save(
        self,
        path: Path,
        dtype: Literal["float16", "float32"],
        io: Literal["float32", "float16"],
        labels: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Writes a .pt2 (exported program) or a .safetensors (state_dict), whole or not at all.

        `io` is of no account: a program in FP16 takes FP16 inputs, and casts FP32 ones. Neither
        file has room for labels.
        """
        del io, labels
        if path.suffix == ".safetensors":
            self._save_state_dict(path, getattr(torch, dtype))
        elif path.suffix == ".pt2":
            self._save_program(path, getattr(torch, dtype))
        else:
            raise BadInput(f"cannot write '{path}': give it the suffix .pt2 or .safetensors")

    def runnable(self) -> HalfModule:
        return HalfModule(self._delivered)

    def half_outputs(self, call: Call) -> Arrays | None:
        """What the deployable gives in PyTorch's own kernels, of inputs in FP32.

        On a CPU these are slow: of a large model only the types are run, which gives None.
        """
        with torch.no_grad(), same_draws(self.deployed.draws):
            if not self._is_large:
                return arrays(flat(self._delivered(*call.args, **call.kwargs)))
            with types_only() as fake:
                half = self.deployed.without_values().module(torch.float16)
                given = tree_map_only(Tensor, fake.from_tensor, (call.args, call.kwargs))
                half(*given[0], **given[1])
        return None

    @property
    def _is_large(self) -> bool:
        return self.deployed.constants.size > LARGE

    @cached_property
    def _delivered(self) -> nn.Module:
        return self.half()

    def _save_state_dict(self, path: Path, dtype: torch.dtype) -> None:
        """Tensor by tensor; what is written is read again, and proved in a model of the
        original's class."""
        folded = self._tensors_alone()
        tensors = {name: Rounded.of(source, dtype) for name, source in folded.tensors.items()}

        def write(partial: str) -> None:
            write_tensors(partial, tensors)
            self._check_weights(WeightsFile.open(Path(partial)), dtype)

        atomically(path, write)

    def _check_weights(self, file: WeightsFile, dtype: torch.dtype) -> None:
        """Raises FoldError if the original's class is not as good with these as what was proved.

        It runs in FP32 with the rounded weights where its half kernels would take minutes.
        """
        computes = torch.float32 if self._is_large else dtype
        held = {name: file.constant(name) for name in file.names}
        held = {name: Rounded.of(source, computes) for name, source in held.items()}
        trial = self.original.lent(held, computes)
        expected = self._outputs(self.original.runs, torch.float32)
        found = self._outputs(trial, computes)
        apart = difference([x.float() if _is_half(x) else x for x in found], expected)
        if not apart <= (0.0 if dtype == torch.float32 else TOLERANCE):
            raise FoldError(
                f"{self.original.name} with these weights alone is {apart:.2g} off in "
                f"{str(dtype).removeprefix('torch.')}: save a .pt2, which holds the whole plan"
            )

    def _outputs(self, module: nn.Module, dtype: torch.dtype) -> list[Any]:
        args, kwargs = cast((self.call.args, self.call.kwargs), dtype)
        with torch.no_grad():
            return flat(module(*args, **kwargs))

    def _save_program(self, path: Path, dtype: torch.dtype) -> None:
        """What is written is read again, and must give the bits of what was proved."""
        _check_exportable(self.after)
        module = self.half() if dtype == torch.float16 else self.after.module(torch.float32)
        taken = torch.float32 if self.deployed.needs_float32 else dtype
        args, kwargs = cast((self.call.args, self.call.kwargs), taken)
        leaves = self.deployed.flatten(self.call.holding(args, kwargs))
        shapes = free_sizes(module, self.deployed.fx, leaves, args, kwargs)
        with exporting(free_sizes=shapes is not None), torch.no_grad():
            exported = torch.export.export(
                module, args, kwargs, dynamic_shapes=shapes, strict=False
            )

        def write(partial: str) -> None:
            torch.export.save(exported, partial)
            loaded = torch.export.load(partial).module()
            with torch.no_grad():
                found, meant = (flat(m(*args, **kwargs)) for m in (loaded, module))
            if difference(found, meant):
                raise FoldError(f"'{path}' gives other outputs than what was written: torch.export "
                                "loses a part of it; use fixed.model or fixed.half()")  # fmt: skip

        atomically(path, write)

    @cached_property
    def _folded(self) -> Folded:
        """Proved on one sample: the original with the folded constants must give the same bits."""
        folded = Folded.read(self.original, self.before, self.after)
        trial = folded.trial(self.original)
        found, expected = (
            self._outputs(module, torch.float32) for module in (trial, self.original.runs)
        )
        if difference(found, expected):
            raise FoldError(
                f"{self.original.name} with the folded constants is not bit-equal to the "
                "original: some number is written into its code; use fixed.model instead"
            )
        return folded


@dataclass(frozen=True)
class HalfModule:
    """A module in FP16. It `casts` what it is given to FP16, if it does not do so by itself.

    `places` are those of the original's outputs: the keys of a dict may be in another order.
    """

    module: nn.Module
    places: tuple[str, ...] = ()
    casts: bool = True
    engine: str = "torch"

    def evaluate(self, call: Call, fmt: FloatFormat) -> Arrays:
        raise BadInput(
            f"a module in FP16 cannot be evaluated in {fmt.name}, it has no graph to round: choose "
            "the engine 'torch'"
        )

    def half(self) -> HalfModule:
        return self

    def outputs(self, call: Call, compute: Callable[..., Any] | None = None) -> Arrays:
        """What the module gives, or what stands in for it. Raises BadInput for a misfit sample."""
        module = self.module if compute is None else compute
        return arrays(self.leaves(run_model(module, self.taken(call))))

    def taken(self, call: Call) -> Call:
        """A sample as the module is given it."""
        if not self.casts:
            return call
        args, kwargs = cast((call.args, call.kwargs), torch.float16)
        return call.holding(args, kwargs)

    def leaves(self, found: Any) -> list[Any]:
        """What the module gives, flat, in the order of the original's outputs."""
        leaves, own = flat(found), places_of(found)
        if sorted(own) == sorted(self.places):
            return [leaves[own.index(place)] for place in self.places]
        return leaves

    def census(self, call: Call) -> Counter[str]:
        """Of the floating tensors that operators compute."""
        with _Types() as seen:
            self.outputs(call)
        return seen.found


class _Types(TorchDispatchMode):
    """Counts what operators compute, by type."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, Tensor) and x.is_floating_point():
                self.found[str(x.dtype).removeprefix("torch.")] += 1
        return made


def _check_exportable(program: Program) -> None:
    """Raises BadInput for what whoever loads the file has to make known to torch.export as well."""
    for kind in unknown_in(program.unflatten(program.graph.outputs)):
        if is_cache(kind):
            raise BadInput(
                f"the model gives a {kind.__name__}, which torch.export does not know: pass "
                "use_cache=False with each sample, or call "
                "transformers.integrations.executorch.register_dynamic_cache_export_support() first"
            )
        raise BadInput(
            f"the model gives a {kind.__name__}, which torch.export does not know: call "
            f"torch.export.register_dataclass({kind.__name__}, serialized_type_name=...) first"
        )


def _is_half(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype == torch.float16

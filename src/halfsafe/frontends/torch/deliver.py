"""The fixed model in the forms in which people deploy it."""

# torch.fx and torch.export are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from halfsafe.atomic import atomically
from halfsafe.errors import BadInput, FoldError
from halfsafe.formats import FloatFormat
from halfsafe.frontends.torch.arithmetic import arrays
from halfsafe.frontends.torch.capture import difference, run_model
from halfsafe.frontends.torch.program import Program, same_draws
from halfsafe.frontends.torch.schema import argument
from halfsafe.graph import Kind, Node
from halfsafe.samples import Call
from halfsafe.source import Arrays
from halfsafe.verdict import TOLERANCE

LARGE = 20_000_000
"""Constants beyond which PyTorch's half kernels on a CPU take minutes."""


@dataclass(frozen=True)
class TorchDelivery:
    """`original` is the user's module, `before` its capture and `after` the edited capture.

    `deployed` is `after` with what FP16 cannot hold replaced.
    """

    original: nn.Module
    before: Program
    after: Program
    deployed: Program
    call: Call
    dynamic_shapes: Any = None

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
        recipe = self._recipe
        if recipe.attributes:
            name, number = next(iter(recipe.attributes.items()))
            raise FoldError(
                f"the plan needs {name} = {number:.6g} as well, which no state_dict holds: use "
                "apply_to(model), which sets both, or save a .pt2"
            )
        return recipe.tensors

    def apply_to(self, model: nn.Module) -> nn.Module:
        """Loads the folded constants into a model of the original's class, epsilons included.

        Changes `model` in place and returns it. Tied parameters that are stored at different
        exponents are untied. Raises FoldError, leaving `model` as it was, when the plan needs more
        than constants.
        """
        self._recipe.apply(model)
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

    def half_outputs(self, call: Call) -> Arrays | None:
        """What the deployable gives in PyTorch's own kernels, of inputs in FP32.

        On a CPU these are slow: of a large model only the types are run, which gives None.
        """
        half = self._delivered
        large = sum(x.numel() for x in self.deployed.constants.values()) > LARGE
        with torch.no_grad(), same_draws(self.deployed.draws):
            if not large:
                return arrays(pytree.tree_leaves(half(*call.args, **call.kwargs)))
            with FakeTensorMode(allow_non_fake_inputs=True) as fake:
                given = pytree.tree_map_only(Tensor, fake.from_tensor, (call.args, call.kwargs))
                half(*given[0], **given[1])
        return None

    @cached_property
    def _delivered(self) -> nn.Module:
        return self.half()

    def _save_state_dict(self, path: Path, dtype: torch.dtype) -> None:
        """What is written is read again, and proved in a model of the original's class."""
        from safetensors.torch import load_file, save_file

        tensors = {
            name: (t.to(dtype) if t.is_floating_point() else t).clone().contiguous()
            for name, t in self.state_dict().items()
        }

        def write(partial: str) -> None:
            save_file(tensors, partial)
            self._check_weights(load_file(partial), dtype)

        atomically(path, write)

    def _check_weights(self, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
        """Raises FoldError if the original's class is not as good with these as what was proved."""
        trial = copy.deepcopy(self.original).to(dtype)
        trial.load_state_dict(tensors)
        expected = self._outputs(self.original, torch.float32)
        if dtype == torch.float32:
            apart = difference(self._outputs(trial, dtype), expected)
            limit = 0.0
        else:
            found = self._outputs(trial, dtype)
            apart = difference([x.float() if _is_half(x) else x for x in found], expected)
            limit = TOLERANCE
        if not apart <= limit:
            raise FoldError(
                f"{type(trial).__name__} with these weights alone is {apart:.2g} off in "
                f"{str(dtype).removeprefix('torch.')}: save a .pt2, which holds the whole plan"
            )

    def _outputs(self, module: nn.Module, dtype: torch.dtype) -> list[Any]:
        args, kwargs = pytree.tree_map(_caster(dtype), (self.call.args, self.call.kwargs))
        with torch.no_grad():
            return pytree.tree_leaves(module(*args, **kwargs))

    def _save_program(self, path: Path, dtype: torch.dtype) -> None:
        """What is written is read again, and must give the bits of what was proved."""
        module = self.half() if dtype == torch.float16 else self.float32()
        cast = torch.float32 if self.deployed.needs_float32 else dtype
        args, kwargs = pytree.tree_map(_caster(cast), (self.call.args, self.call.kwargs))
        with torch.no_grad():
            exported = torch.export.export(
                module,
                args,
                kwargs,
                dynamic_shapes=self.dynamic_shapes,
                strict=False,
            )

        def write(partial: str) -> None:
            torch.export.save(exported, partial)
            loaded = torch.export.load(partial).module()
            with torch.no_grad():
                found, meant = (pytree.tree_leaves(m(*args, **kwargs)) for m in (loaded, module))
            if difference(found, meant):
                raise FoldError(f"'{path}' gives other outputs than what was written: torch.export "
                                "loses a part of it; use fixed.model or fixed.half()")  # fmt: skip

        atomically(path, write)

    @cached_property
    def _recipe(self) -> _Recipe:
        """Proved on one sample: the original with the folded constants must give the same bits."""
        recipe = _Recipe.read(self.original, self.before, self.after)
        trial = copy.deepcopy(self.original)
        recipe.apply(trial)
        with torch.no_grad():
            found, expected = (
                pytree.tree_leaves(m(*self.call.args, **self.call.kwargs))
                for m in (trial, self.original)
            )
        if difference(found, expected):
            raise FoldError(
                f"{type(trial).__name__} with the folded constants is not bit-equal to the "
                "original: some number is written into its code; use fixed.model instead"
            )
        return recipe


@dataclass(frozen=True)
class _Recipe:
    """A fix in the original's own terms: tensors of its state_dict, attributes of modules."""

    tensors: dict[str, Tensor]
    attributes: dict[str, float]

    @classmethod
    def read(cls, model: nn.Module, before: Program, after: Program) -> _Recipe:
        """Compares the two captures. Raises FoldError where they differ in more than constants."""
        names = _tied_names(model)
        filed: dict[str, Tensor] = {}
        attributes: dict[str, float] = {}
        for old, new in _same_calls(before.fx, after.fx):
            node = before.graph.by_name[old.name]
            for operand, value in node.inputs.items():
                found = before.graph.values[value]
                stored, _ = argument(new, operand)
                if found.kind == Kind.CONSTANT and found.floating:
                    tensor = after.constants[str(stored.target)]
                    changed = tensor is not before.constants[value]
                    _file(filed, names, node, value, tensor, changed)
                elif found.number is not None and stored != found.number:
                    name = _attribute(model, node.module, operand, found.number)
                    if name is None or attributes.get(name, stored) != stored:
                        raise FoldError(
                            f"{node} needs {operand}={stored} in place of {found.number}, which is "
                            "written into the code of the model: use fixed.model instead"
                        )
                    attributes[name] = float(stored)
        tensors: dict[str, Tensor] = model.state_dict()
        return cls({name: filed.get(name, t) for name, t in tensors.items()}, attributes)

    def apply(self, model: nn.Module) -> None:
        """Changes a model in place."""
        ours = model.state_dict(keep_vars=True)
        if set(ours) != set(self.tensors):
            odd = sorted(set(ours) ^ set(self.tensors))[0]
            raise FoldError(f"'{odd}' is in one state_dict only: use a model of the same class")
        for name, tensor in self.tensors.items():
            parent, _, leaf = name.rpartition(".")
            owner: Any = model.get_submodule(parent)
            fresh = tensor.clone()
            if isinstance(ours[name], nn.Parameter):
                fresh = nn.Parameter(fresh, requires_grad=ours[name].requires_grad)
            setattr(owner, leaf, fresh)
        for name, number in self.attributes.items():
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, number)


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
        raise NotImplementedError(f"a module in FP16 cannot be evaluated in {fmt.name}")

    def half(self) -> HalfModule:
        return self

    def outputs(self, call: Call, compute: Callable[..., Any] | None = None) -> Arrays:
        """What the module gives, or what stands in for it. Raises BadInput for a misfit sample."""
        args, kwargs = call.args, call.kwargs
        if self.casts:
            args, kwargs = pytree.tree_map(_caster(torch.float16), (args, kwargs))
        found = run_model(
            self.module if compute is None else compute, Call(args, kwargs, call.number)
        )
        leaves, own = pytree.tree_leaves(found), places_of(found)
        if sorted(own) == sorted(self.places):
            leaves = [leaves[own.index(place)] for place in self.places]
        return arrays(leaves)

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
        for x in pytree.tree_leaves(made):
            if isinstance(x, Tensor) and x.is_floating_point():
                self.found[str(x.dtype).removeprefix("torch.")] += 1
        return made


def places_of(outputs: Any) -> tuple[str, ...]:
    """Where each flat output lies in the structure that a model returns."""
    return tuple(pytree.keystr(path) for path, _ in pytree.tree_leaves_with_path(outputs))


def _caster(dtype: torch.dtype) -> Callable[[Any], Any]:
    def cast(x: Any) -> Any:
        return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x

    return cast


def _is_half(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype == torch.float16


def _same_calls(before: fx.Graph, after: fx.Graph) -> list[tuple[fx.Node, fx.Node]]:
    """The calls of two graphs, pair by pair. Raises FoldError if one has calls of its own."""
    calls = [
        [n for n in g.nodes if n.op == "call_function" and n.target is not operator.getitem]
        for g in (before, after)
    ]
    old_names = {n.name for n in calls[0]}
    added = next((n for n in calls[1] if n.name not in old_names), None)
    if added is not None:
        raise FoldError(
            f"the plan needs an operator that the model does not have ({added.name}): constants "
            "alone do not suffice, use fixed.model instead"
        )
    by_name = {n.name: n for n in calls[1]}
    return [(n, by_name[n.name]) for n in calls[0] if n.name in by_name]


def _tied_names(model: nn.Module) -> dict[str, list[str]]:
    """All qualified names of each parameter or buffer, by any one of them."""
    groups: dict[int, list[str]] = {}
    everything = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in everything:
        groups.setdefault(id(tensor), []).append(name)
    return {name: group for group in groups.values() for name in group}


def _file(
    filed: dict[str, Tensor],
    tied: Mapping[str, list[str]],
    node: Node,
    constant: str,
    tensor: Tensor,
    changed: bool,
) -> None:
    """Files a constant under the names by which the reading module knows it."""
    names = tied.get(constant, [])
    own = [name for name in names if name.rpartition(".")[0] == node.module] or names
    if changed and not own:
        raise FoldError(f"'{constant}' is made inside forward(): use fixed.model instead")
    for name in own:
        if filed.setdefault(name, tensor) is not tensor:
            raise FoldError(
                f"'{name}' is needed at two exponents, one of them by {node}: use fixed.model "
                "instead, which holds a clone"
            )


def _attribute(model: nn.Module, module: str, operand: str, number: float) -> str | None:
    """The attribute of a module that holds a number, preferring one named like the operand."""
    owner = model.get_submodule(module)
    held = [
        name for name, found in vars(owner).items() if isinstance(found, float) and found == number
    ]
    named = [name for name in held if operand.partition("_")[0] in name] or held
    return f"{module}.{named[0]}".lstrip(".") if named else None

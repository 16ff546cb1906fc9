"""What a culprit is, by brute force: the first operators run in FP16, and the rest in FP32.

Nothing here imports the package that is judged. A PyTorch network is exported in bfloat16, so that
its own casts to FP32 stay, and interpreted with its FP32 weights in PyTorch's half kernels up to an
operator, and in FP32 behind it. Of an ONNX file, values are rounded by nodes of their own.
"""

# pyright: basic

from __future__ import annotations

import copy
import operator
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from bench.judge import SINGLE, fed, max_rel, session, torch_called, torch_outputs


@dataclass(frozen=True)
class Operator:
    """An operator by its name in the graph, or by its kind and its number in its module."""

    name: str
    op: str
    module: str = ""
    nth: int = 0


class Prefixes(Protocol):
    """A network that runs with any number of its operators in FP16."""

    @property
    def operators(self) -> Sequence[Operator]: ...

    def error(self, count: int, exempt: Collection[int] = ()) -> float:
        """How wrong the outputs are with the first `count` operators in FP16, but for some."""
        ...


def first_culprit(network: Prefixes, tolerance: float) -> Operator | None:
    """By trying all prefixes from the shortest."""
    for i, found in enumerate(network.operators, 1):
        if not network.error(i) <= tolerance:
            return found
    return None


# PyTorch

IGNORED = ("aten._assert", "aten.sym_", "aten._assert_tensor_metadata")


class TorchPrefixes:
    """An exported module. The samples are dicts of keyword arguments, all of one shape."""

    def __init__(self, model: nn.Module, samples: Sequence[dict[str, Tensor]]) -> None:
        self.model, self.samples = model, samples
        low = copy.deepcopy(model).bfloat16()
        sample = {k: _bfloat16(x) for k, x in samples[0].items()}
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(low, (), kwargs=sample, strict=False)
            self.program = program.run_decompositions({})
        graph = self.program.graph
        self.nodes = [n for n in graph.nodes if n.op == "call_function" and not _is_ignored(n)]
        self.references = [torch_called(model, sample) for sample in samples]

    @cached_property
    def operators(self) -> list[Operator]:
        seen: Counter[tuple[str, str]] = Counter()
        found: list[Operator] = []
        for node in self.nodes:
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            kind = ".".join(str(node.target).split(".")[:2]), stack[-1][0] if stack else ""
            found.append(Operator(node.name, *kind, seen[kind]))
            seen[kind] += 1
        return found

    def error(self, count: int, exempt: Collection[int] = ()) -> float:
        half = {n for i, n in enumerate(self.nodes[:count]) if i not in exempt}
        worst = 0.0
        for sample, reference in zip(self.samples, self.references, strict=True):
            with torch.no_grad():
                flat = _Mixed(self.program.graph_module, half).run(*self._flat(sample))
            out = pytree.tree_unflatten(list(flat), self.program.call_spec.out_spec)
            worst = max(worst, max_rel(reference, torch_outputs(out)))
        return worst

    def _flat(self, sample: dict[str, Tensor]) -> Iterator[Any]:
        """What the graph's placeholders stand for, with the FP32 model's parameters and buffers."""
        held = dict(self.model.named_parameters(remove_duplicate=False))
        held |= dict(self.model.named_buffers(remove_duplicate=False))
        given = iter(pytree.tree_leaves(sample))
        for spec in self.program.graph_signature.input_specs:
            if spec.kind == InputKind.USER_INPUT:
                yield next(given)
            elif spec.target in held:
                yield held[spec.target]
            else:
                yield self.program.constants[spec.target]


class _Mixed(fx.Interpreter):
    """Runs some nodes of a bfloat16 graph in FP16 and the others in FP32."""

    def __init__(self, module: fx.GraphModule, half: set[fx.Node]) -> None:
        super().__init__(module)
        self.half = half

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "output":
            return [self._as(a, torch.float32) for a in n.args[0]]
        if n.op != "call_function":
            return super().run_node(n)
        if _is_assertion(n):
            return None
        if n.target is operator.getitem:
            return self.env[n.args[0]][n.args[1]]
        dtype = torch.float16 if n in self.half else torch.float32
        args, kwargs = fx.node.map_arg((n.args, n.kwargs), lambda a: self._as(a, dtype))
        args, kwargs = pytree.tree_map(
            lambda x: dtype if x is torch.bfloat16 else x, (args, kwargs)
        )
        try:
            return n.target(*args, **kwargs)
        except RuntimeError as error:
            if "without overflow" not in str(error):
                raise
            return n.target(*pytree.tree_map(_infinite, args), **kwargs)

    def _as(self, node: Any, dtype: torch.dtype) -> Any:
        """A node's value, in a type if it is one of those that bfloat16 stands for."""
        x = self.env[node] if isinstance(node, fx.Node) else node
        seen = node.meta.get("val") if isinstance(node, fx.Node) else None
        return pytree.tree_map(
            lambda x, seen: x.to(dtype) if getattr(seen, "dtype", None) == torch.bfloat16 else x,
            x,
            seen,
        )


def _infinite(x: Any) -> Any:
    """A number that FP16 stores as inf, where PyTorch refuses to."""
    return float(np.copysign(np.inf, x)) if isinstance(x, float) and abs(x) > 65504 else x


def _bfloat16(x: Tensor) -> Tensor:
    return x.bfloat16() if x.is_floating_point() else x


def _is_assertion(node: fx.Node) -> bool:
    return str(node.target).startswith("aten._assert")


def _is_ignored(node: fx.Node) -> bool:
    named = str(node.target).startswith(IGNORED)
    return named or node.target is operator.getitem or not str(node.target).count(".")


# ONNX


class OnnxPrefixes:
    """A file in FP32 without control flow."""

    def __init__(self, model: onnx.ModelProto, samples: Sequence[dict[str, Any]]) -> None:
        self.model, self.samples = model, samples
        typed = onnx.shape_inference.infer_shapes(model).graph
        values = (*typed.value_info, *typed.input, *typed.output)
        self.floats = {
            v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT
        } | {i.name for i in typed.initializer if i.data_type == TensorProto.FLOAT}
        self.nodes = [n for n in model.graph.node if n.op_type != "Constant"]
        run = session(model)
        self.names = [o.name for o in run.get_outputs()]
        self.references = [fed(run, sample, self.names) for sample in samples]

    @cached_property
    def operators(self) -> list[Operator]:
        return [Operator(n.name, n.op_type) for n in self.nodes]

    def error(self, count: int, exempt: Collection[int] = ()) -> float:
        run = session(self.rounded(set(range(count)).difference(exempt)))
        return max(
            max_rel(reference, fed(run, sample, self.names))
            for sample, reference in zip(self.samples, self.references, strict=True)
        )

    def rounded(self, half: Collection[int]) -> onnx.ModelProto:
        """The file with what some of its operators read and give rounded to FP16."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        nodes = [n for n in model.graph.node if n.op_type == "Constant"]
        stored: dict[str, str] = {}
        for i, node in enumerate(n for n in model.graph.node if n.op_type != "Constant"):
            nodes += self._stored(node, stored) if i in half else [node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        return model

    def _stored(self, node: onnx.NodeProto, stored: dict[str, str]) -> list[onnx.NodeProto]:
        """A node that reads and gives what FP16 stores; `stored` are values under that name."""
        before: list[onnx.NodeProto] = []
        for i, name in enumerate(node.input):
            if name not in self.floats or i in SINGLE.get(node.op_type, ()):
                continue
            if name not in stored:
                stored[name] = f"{name}.stored"
                before += _casts(name, stored[name])
            node.input[i] = stored[name]
        after: list[onnx.NodeProto] = []
        for i, name in enumerate(node.output):
            if name in self.floats:
                node.output[i] = f"{name}.raw"
                after += _casts(node.output[i], name)
                stored[name] = name
        return [*before, node, *after]


def _casts(source: str, target: str) -> list[onnx.NodeProto]:
    middle = f"{target}.half"
    return [
        helper.make_node("Cast", [source], [middle], to=TensorProto.FLOAT16),
        helper.make_node("Cast", [middle], [target], to=TensorProto.FLOAT),
    ]

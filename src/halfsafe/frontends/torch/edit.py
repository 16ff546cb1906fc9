"""Applies edits to a captured PyTorch program, giving a new one."""

# torch.fx and torch.export are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate, map_arg

from halfsafe.edits import (
    Edit,
    Fold,
    Insert,
    Island,
    Lower,
    Replace,
    ScaleInput,
    ScaleOutput,
    SetNumber,
    steps,
)
from halfsafe.errors import EditError, first_line
from halfsafe.frontends.torch.constants import Constants, Limited, Scaled
from halfsafe.frontends.torch.forms import lower
from halfsafe.frontends.torch.half import NEEDS_FLOAT32
from halfsafe.frontends.torch.program import Program
from halfsafe.frontends.torch.schema import argument, aten, is_deployed
from halfsafe.graph import Use

CLIP = 2.0**14
"""Saturating functions are constant in FP32 from far below this magnitude on."""


def apply(program: Program, edits: Iterable[Edit]) -> Program:
    """The edited program. The argument is left as it was."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.fx, {}))
    editor = _Editor(program, graph)
    editor.apply(list(edits))
    graph.eliminate_dead_code()
    graph.lint()
    return program.with_graph(graph, Constants(editor.constants))


class _Editor:
    def __init__(self, program: Program, graph: fx.Graph) -> None:
        self.program, self.graph = program, graph
        self.constants = dict(program.constants.sources)
        self.nodes = {node.name: node for node in graph.nodes}
        self.inserted: dict[tuple[fx.Node, int, bool], fx.Node] = {}

    def apply(self, edits: list[Edit]) -> None:
        self._fold([edit for edit in edits if isinstance(edit, Fold)])
        for edit in edits:
            match edit:
                case SetNumber():
                    number, write = argument(self.nodes[edit.use.node], edit.use.operand)
                    write(number * 2.0**-edit.exponent)
                case Replace():
                    self._replace(edit)
                case Insert():
                    consumer = self.nodes[edit.use.node]
                    source, write = argument(consumer, edit.use.operand)
                    write(self._scaled(source, edit.bits, edit.clip, consumer))
                case ScaleInput():
                    self._scale_input(edit)
                case ScaleOutput():
                    self._scale_output(edit)
                case Island():
                    self._island(edit.nodes)
                case Lower():
                    lower(self, self.nodes[edit.node], edit.form)
                case Fold():
                    pass

    def call(self, target: Any, *args: Any, like: fx.Node, **kwargs: Any) -> fx.Node:
        """A new node at the insertion point, with the metadata that reading and casting need."""
        node = self.graph.call_function(target, args, kwargs)
        node.meta = {k: v for k, v in like.meta.items() if k in ("nn_module_stack", "stack_trace")}
        node.meta["val"] = target(*map_arg(args, _fake), **map_arg(kwargs, _fake))
        return node

    def _fold(self, folds: list[Fold]) -> None:
        """Uses that agree share one tensor; the most used variant keeps the constant's name."""
        chosen: dict[str, dict[Use, int]] = defaultdict(dict)
        for fold in folds:
            held, _ = argument(self.nodes[fold.use.node], fold.use.operand)
            chosen[str(held.target)][fold.use] = fold.exponent
        for name, exponents in chosen.items():
            source = self.constants[name]
            uses = self.program.graph.consumers[name]
            wanted = [exponents.get(use, 0) for use in uses]
            kept = Counter(wanted).most_common(1)[0][0]
            for use, exponent in zip(uses, wanted, strict=True):
                if exponent != kept:
                    clone = f"{name}__times_2_to_{-exponent}".replace("-", "minus_")
                    self.constants[clone] = Scaled.of(source, exponent)
                    self._read_instead(use, clone)
            if kept:
                self.constants[name] = Scaled.of(source, kept)

    def _replace(self, edit: Replace) -> None:
        """A literal gets the new number; in a constant, every entry beyond it does, sign kept."""
        held, write = argument(self.nodes[edit.use.node], edit.use.operand)
        if not isinstance(held, fx.Node):
            write(edit.new)
            return
        name = f"{held.target}__limited"
        self.constants[name] = Limited.of(self.constants[str(held.target)], abs(edit.new))
        self._read_instead(edit.use, name)

    def _read_instead(self, use: Use, constant: str) -> None:
        source, write = argument(self.nodes[use.node], use.operand)
        with self.graph.inserting_before(source):
            clone = self.graph.get_attr(constant)
        clone.meta = dict(source.meta)
        write(clone)

    def _island(self, names: tuple[str, ...]) -> None:
        """What these nodes read is cast to FP32, what others read of them is cast back.

        The network's inputs are given in FP32, and its constants are held so: both are read as they
        are, since no Cast would bring back what rounding has lost. Its outputs leave as they are.
        """
        named = {self.nodes[name] for name in names}
        named |= {part for node in named for part in node.users if _is_part(part)}
        island = [node for node in self.graph.nodes if node in named]
        stored = {node for node in island if is_deployed(node, self.program.deployed)}
        lifted: dict[fx.Node, fx.Node] = {}
        for node in island:
            _say_float32(node, self.program.deployed)
            for source in node.all_input_nodes:
                if source in named or not is_deployed(source, self.program.deployed):
                    continue
                if source not in lifted:
                    lifted[source] = self._in_float32(source, island)
                node.replace_input_with(source, lifted[source])
            node.meta["val"] = _computed(node)
        for node in island:
            outside = [user for user in node.users if user not in named and user.op != "output"]
            if outside and node in stored:  # what the model itself keeps in FP32 stays so
                self._store_for(outside, node)

    def _in_float32(self, source: fx.Node, island: list[fx.Node]) -> fx.Node:
        if source.op == "placeholder":
            outside = [user for user in source.users if user not in island]
            wide = source.meta["val"].to(torch.float32)
            source.meta = {**source.meta, "val": wide, NEEDS_FLOAT32: True}
            if outside:
                self._store_for(outside, source)
            return source
        if source.op == "get_attr":
            name = f"{source.target}__float32"
            self.constants[name] = self.constants[str(source.target)]
            with self.graph.inserting_before(source):
                held = self.graph.get_attr(name)
            held.meta = {**source.meta, "val": source.meta["val"].to(torch.float32)}
            return held
        return self._cast(source, torch.float32)

    def _store_for(self, users: list[fx.Node], source: fx.Node) -> None:
        """These read a value as the deployed format stores it."""
        back = self._cast(source, self.program.deployed)
        for user in users:
            user.replace_input_with(source, back)

    def _cast(self, source: fx.Node, dtype: torch.dtype) -> fx.Node:
        with self.graph.inserting_after(source):
            return self.call(aten.to.dtype, source, dtype, like=source)

    def _scaled(self, source: fx.Node, bits: int, clip: bool, consumer: fx.Node) -> fx.Node:
        """source * 2**bits, made once for all consumers that want the same."""
        key = (source, bits, clip)
        if key not in self.inserted:
            with self.graph.inserting_after(source):
                made = source
                if clip:
                    bound = CLIP * 2.0**-bits
                    made = self.call(aten.clamp.default, source, -bound, bound, like=consumer)
            for step in steps(bits):
                with self.graph.inserting_after(made):
                    made = self.call(aten.mul.Tensor, made, 2.0**step, like=consumer)
            self.inserted[key] = made
        return self.inserted[key]

    def _scale_input(self, edit: ScaleInput) -> None:
        """The input stays FP32 up to the multiplication; only the product is deployed."""
        source = self.nodes[edit.value]
        original = source.meta["val"]
        users = list(source.users)
        source.meta = {**source.meta, "val": original.to(torch.float32)}
        with self.graph.inserting_after(source):
            made = self.call(aten.mul.Tensor, source, 2.0**edit.bits, like=source)
        with self.graph.inserting_after(made):
            cast = self.call(aten.to.dtype, made, original.dtype, like=source)
        for user in users:
            user.replace_input_with(source, cast)

    def _scale_output(self, edit: ScaleOutput) -> None:
        (output,) = self.graph.find_nodes(op="output")
        flat = list(output.args[0])
        source: fx.Node = flat[edit.index]
        with self.graph.inserting_before(output):
            if edit.in_float32 or len(steps(edit.bits)) > 1:
                source = self.call(aten.to.dtype, source, torch.float32, like=source)
            flat[edit.index] = self.call(aten.mul.Tensor, source, 2.0**edit.bits, like=source)
        output.args = (tuple(flat),)


def _say_float32(node: fx.Node, deployed: torch.dtype) -> None:
    """A call that is given the deployed format as an argument makes FP32 instead."""

    def wide(argument: Any) -> Any:
        return torch.float32 if argument is deployed else argument

    node.args = map_aggregate(node.args, wide)  # type: ignore[assignment]
    node.kwargs = map_aggregate(node.kwargs, wide)  # type: ignore[assignment]


def _is_part(node: fx.Node) -> bool:
    """Whether a node is one of the outputs of another."""
    return node.target is operator.getitem


def _computed(node: fx.Node) -> Any:
    """What a call gives for its present operands. Raises EditError when they do not suit it."""
    target: Any = node.target
    try:
        return target(*map_arg(node.args, _fake), **map_arg(node.kwargs, _fake))
    except Exception as error:
        raise EditError(f"{node.name} cannot be computed in FP32: {first_line(error)}") from error


def _fake(node: fx.Node) -> Any:
    return node.meta["val"]

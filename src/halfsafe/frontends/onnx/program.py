"""An ONNX model as a graph, evaluated node by node in ONNX Runtime."""

# onnx_ir and onnxruntime are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from halfsafe.errors import BadInput
from halfsafe.frontends.onnx import arithmetic
from halfsafe.frontends.onnx.attention import write_scales
from halfsafe.frontends.onnx.flatten import flatten
from halfsafe.frontends.onnx.one_node import OneNode
from halfsafe.frontends.onnx.opset import infer_types
from halfsafe.frontends.onnx.parts import parts
from halfsafe.frontends.onnx.reader import Seen, is_scalar, read_graph
from halfsafe.frontends.onnx.run import Evaluator, as_it_is, by_element, constant
from halfsafe.frontends.onnx.values import Elements, values_of
from halfsafe.graph import Graph
from halfsafe.measure import Arithmetic, Lanes, Store
from halfsafe.samples import Call

Array = NDArray[Any]


@dataclass(frozen=True)
class OnnxProgram:
    """A model with one flat graph over named initialisers. Never mutated.

    `float32` names values that the deployed model computes in FP32; `shapes` and `dtypes` are those
    that the first sample shows.
    """

    model: ir.Model
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype[Any]]
    float32: frozenset[str] = frozenset()

    @property
    def graph(self) -> Graph:
        """The same network as halfsafe's own frozen graph."""
        return self._graph

    @cached_property
    def _graph(self) -> Graph:
        return read_graph(self.model, Seen(self.shapes, self.dtypes, self.float32))

    @cached_property
    def scalars(self) -> frozenset[str]:
        """Initialisers of one number, which the graph has as literals."""
        held = self.model.graph.initializers.items()
        return frozenset(name for name, value in held if is_scalar(value))

    @cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self.model)

    def run(self, call: Call) -> list[Array]:
        """Outputs of the model as it is. Raises BadInput for a misfit sample."""
        return [x for (x,) in self.evaluate(call, as_it_is)]

    @property
    def arithmetic(self) -> Arithmetic:
        """NumPy's."""
        return arithmetic

    @property
    def stored(self) -> frozenset[str]:
        """What is rounded when it is stored: values, and numbers that are literals."""
        return self.graph.rounded | (self.scalars - self.float32)

    def array(self, name: str) -> Array:
        """The entries of an initialiser."""
        return constant(self.model, name)

    def run_node(self, name: str, values: Mapping[str, Array]) -> list[Array]:
        """What one operator gives, of values by name and the file's own constants.

        Raises BadInput for one that has a body.
        """
        (part,) = (part for part in parts(self.model.graph) if part.name == name)
        if part.entries is not None:
            raise BadInput(f"'{name}' is part of a body, which is not run by itself")
        one = OneNode(part.node, tuple(sorted(self.model.opset_imports.items())))
        given = {n: values[n] if n in values else self.array(n) for n in one.reads}
        return [np.empty(0) if x is None else x for x in one(given, {})]

    def evaluate(self, call: Call, store: Store, lanes: int = 1) -> list[Lanes]:
        """Outputs, computed node by node on several lanes, as Evaluator.run gives them.

        `store` is called with each element of a sequence.
        """
        return self.evaluate_all([call], [store], lanes)[0]

    def evaluate_all(
        self, calls: Sequence[Call], stores: Sequence[Store], lanes: int = 1
    ) -> list[list[Lanes]]:
        """The same of several samples side by side: constants are read once for all of them."""
        return self._evaluator.run_all(calls, list(map(by_element, stores)), lanes)


def open_program(model: ir.Model, call: Call) -> tuple[OnnxProgram, list[Any]]:
    """Flattens a model, and runs it on one sample to see every value's type and shape.

    Given with it are the outputs.
    """
    flat = flatten(model)
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, np.dtype[Any]] = {}
    types: dict[str, ir.TypeProtocol] = {}

    def see(name: str, found: Any) -> None:
        if found is not None:
            shapes[name], dtypes[name], types[name] = found.shape, found.dtype, _type_of(found)

    outputs = [x for (x,) in Evaluator(flat).run(call, as_it_is, see=see)]
    with suppress(BadInput):
        infer_types(flat)  # which knows what may be missing
    for value in values_of(flat):
        if value.type is None:
            value.type = types.get(str(value.name))
    for value in (value for part in parts(flat.graph) for value in part.outputs):
        if value.name and value.name not in dtypes and value.dtype is not None:
            dtypes[value.name] = value.dtype.numpy()  # in a branch that the sample does not take
    half = [name for name, dtype in dtypes.items() if dtype == np.float16]
    if half:
        raise BadInput(
            f"'{half[0]}' is already float16: pass the FP32 model, the values that rounding lost "
            "cannot be found again"
        )
    write_scales(flat, shapes)
    return OnnxProgram(flat, shapes, dtypes), outputs


def _type_of(found: Any) -> ir.TypeProtocol:
    """The type of a value that running has shown, where the file does not tell it."""
    text = found.dtype.kind in "OUS"
    kind = ir.TensorType(ir.DataType.STRING if text else ir.DataType.from_numpy(found.dtype))
    return ir.SequenceType(kind) if isinstance(found, Elements) else kind

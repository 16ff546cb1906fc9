"""One ONNX node: a one-node graph whose operands can be stored at any exponent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from halfsafe.graph import Graph, Kind, Node, Value
from halfsafe.rules.onnx import SIGNATURES, operands

Engine = Literal["reference", "onnxruntime", "onnxruntime in FP32"]
OPSET = {"reference": 24, "onnxruntime": 23, "onnxruntime in FP32": 23}

_rng = np.random.default_rng(0)


@dataclass(frozen=True)
class OnnxCase:
    """A node on `inputs` (None is absent), and the equations that its rule is expected to state.

    Equations are written as in `tests.case.Case`. `outputs` has a letter for each output, "-" for
    one that the node leaves out.
    """

    op: str
    inputs: tuple[Any, ...]
    expected: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: str = "y"
    engine: Engine = "reference"
    opset: int = 0

    def __str__(self) -> str:
        named = [f"{name}={_shown(a)}" for name, a in self.attributes.items()]
        return f"{self.op}({', '.join([*map(_shown, self.inputs), *named])})"

    @cached_property
    def graph(self) -> Graph:
        """The node as a graph: numbers are literals, everything else is a graph input."""
        real = self.stored({})
        values: dict[str, Value] = {}
        for operand, found in {**self._operands, **self._numbers}.items():
            array = np.asarray(found)
            number = float(found) if array.ndim == 0 and _floating(found) else None
            kind = Kind.INPUT if number is None else Kind.LITERAL
            values[operand] = Value(operand, kind, _floating(found), number=number)
        inputs = {operand: operand for operand in values}
        outputs = tuple(f"y{i}" for i in range(len(self.outputs)))
        for name, found in zip(outputs, real, strict=True):
            values[name] = Value(name, Kind.ACTIVATION, _floating(found))
        node = Node("node", self.op, inputs, outputs, self._rest)
        return Graph((node,), values, (), outputs)

    @property
    def tensors(self) -> dict[str, Any]:
        """Operands by name, those that are numbers left out."""
        held = self._operands.items()
        return {n: x for n, x in held if np.ndim(x) or not _floating(x)}

    def given(self, arrays: Mapping[str, Any]) -> list[Any]:
        """The node's outputs, of other tensors in place of some operands."""
        names = operands(self.op, len(self.inputs))
        pairs = zip(names, self.inputs, strict=True)
        inputs = tuple(arrays.get(name, found) for name, found in pairs)
        return replace(self, inputs=inputs).stored({})

    def stored(self, exponents: Mapping[str, int]) -> list[Any]:
        """The node's outputs, None for those left out, on operands stored at these exponents."""
        feeds: dict[str, Any] = {}
        for operand, found in self._operands.items():
            feeds[operand] = self._fed(found, -exponents.get(operand, 0))
        attributes = dict(self._rest)
        for attribute, (operand, _) in SIGNATURES[self.op].numbers.items():
            if attribute in self.attributes or operand in exponents:
                number = self._numbers[operand]
                attributes[attribute] = _ldexp(number, -exponents.get(operand, 0))
        found = iter(self._run(self._model(feeds, attributes), feeds))
        return [None if letter == "-" else next(found) for letter in self.outputs]

    def _fed(self, found: Any, bits: int) -> Any:
        """An operand times a power of two; of a sequence each element."""
        if isinstance(found, list):
            return [self._fed(element, bits) for element in found]
        if not _floating(found):
            return np.asarray(found)
        dtype = np.float32 if self.engine == "onnxruntime in FP32" else np.float64
        return np.asarray(np.ldexp(np.asarray(found).astype(dtype), bits))

    @property
    def _operands(self) -> dict[str, Any]:
        named = zip(operands(self.op, len(self.inputs)), self.inputs, strict=True)
        return {operand: found for operand, found in named if found is not None}

    @property
    def _numbers(self) -> dict[str, Any]:
        found = {
            operand: self.attributes.get(attribute, default)
            for attribute, (operand, default) in SIGNATURES[self.op].numbers.items()
        }
        return {operand: number for operand, number in found.items() if number is not None}

    @property
    def _rest(self) -> dict[str, Any]:
        numbers = SIGNATURES[self.op].numbers
        return {name: a for name, a in self.attributes.items() if name not in numbers}

    def _model(self, feeds: Mapping[str, Any], attributes: Mapping[str, Any]) -> ModelProto:
        domain, _, op = self.op.removeprefix("onnx.").rpartition(".")
        present = dict(zip(operands(self.op, len(self.inputs)), self.inputs, strict=True))
        inputs = [name if found is not None else "" for name, found in present.items()]
        outputs = ["" if letter == "-" else f"y{i}" for i, letter in enumerate(self.outputs)]
        written = {name: _attribute(a) for name, a in attributes.items()}
        node = helper.make_node(op, inputs, outputs, domain=domain, **written)
        graph = helper.make_graph(
            [node],
            "case",
            [_value_info(name, found) for name, found in feeds.items()],
            [helper.make_empty_tensor_value_info(name) for name in outputs if name],
        )
        opsets = [helper.make_opsetid("", self.opset or OPSET[self.engine])]
        opsets += [helper.make_opsetid(domain, 1)] if domain else []
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def _run(self, model: ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
        if self.engine == "reference":
            with np.errstate(all="ignore"):
                return list(ReferenceEvaluator(model).run(None, dict(feeds)))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        run = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return list(run.run(None, dict(feeds)))


def _value_info(name: str, found: Any) -> Any:
    if isinstance(found, list):
        kind = helper.np_dtype_to_tensor_dtype(found[0].dtype)
        return helper.make_tensor_sequence_value_info(name, kind, None)
    kind = helper.np_dtype_to_tensor_dtype(found.dtype)
    return helper.make_tensor_value_info(name, kind, found.shape)


def nodes(
    ops: str,
    law: str,
    *inputs: Any,
    outputs: str = "y",
    engine: Engine = "reference",
    opset: int = 0,
    **attributes: Any,
) -> list[OnnxCase]:
    """A node of each named operator, of one law ("self = out, other = out")."""
    expected = tuple(equation.strip() for equation in law.split(",") if equation.strip())
    names = [
        f"com.microsoft.{op.removeprefix('ms:')}" if op.startswith("ms:") else f"onnx.{op}"
        for op in ops.split()
    ]
    return [OnnxCase(op, inputs, expected, attributes, outputs, engine, opset) for op in names]


def ort(ops: str, law: str, *inputs: Any, **rest: Any) -> list[OnnxCase]:
    """Nodes that ONNX Runtime's FP64 kernels evaluate."""
    return nodes(ops, law, *inputs, engine="onnxruntime", **rest)


def ort32(ops: str, law: str, *inputs: Any, **rest: Any) -> list[OnnxCase]:
    """Nodes for which ONNX Runtime has FP32 kernels alone."""
    return nodes(ops, law, *inputs, engine="onnxruntime in FP32", **rest)


def x(*shape: int) -> np.ndarray:
    """Normal numbers, which FP32 has too."""
    return _rng.normal(size=shape).astype(np.float32).astype(np.float64)


def p(*shape: int) -> np.ndarray:
    """Positive numbers."""
    return np.abs(x(*shape)) + 0.125


def i64(*numbers: int) -> np.ndarray:
    """These integers."""
    return np.array(numbers, np.int64)


def ints(*shape: int) -> np.ndarray:
    """Integers from 0 to 2."""
    return _rng.integers(0, 3, shape)


def mask(*shape: int) -> np.ndarray:
    """Booleans, some true and some false."""
    return (np.arange(np.prod(shape)) % 3 == 0).reshape(shape)


def _floating(found: Any) -> bool:
    return found is not None and np.issubdtype(np.asarray(found).dtype, np.floating)


def _ldexp(number: Any, bits: int) -> Any:
    return np.ldexp(number, bits) if _floating(number) else number


def _attribute(found: Any) -> Any:
    if isinstance(found, np.ndarray):
        return numpy_helper.from_array(found)
    return found.item() if isinstance(found, np.generic) else found


def _shown(found: Any) -> str:
    if isinstance(found, list):
        return f"[{', '.join(map(_shown, found))}]"
    if isinstance(found, np.ndarray):
        return f"{found.dtype}{list(found.shape)}"
    return str(found)


FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64

"""A judge that knows nothing of halfsafe: it runs FP16 by itself and looks at every entry.

Nothing here imports the package that is judged. PyTorch runs under a dispatch mode that rounds what
each operator returns; an ONNX file becomes an FP32 file in which every value is rounded by nodes of
its own, and runs as a whole. `reference` is the model in FP32, `floor` the same with 11 bits at any
exponent, `candidate` what is deployed. `judge` compares the three: whole outputs, items of a batch,
rows, entries and integers, by relative and absolute size. Which outputs are bounded, and so small
beside a natural scale, is told by whoever has built the network.
"""

# pyright: basic

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Verdict = Literal["right", "wrong", "limited"]
Mode = Literal["half", "floor", "own"]
"""FP16 everywhere, 11 bits everywhere, or FP16 where the file itself stores FP16."""

LIMIT = 2.0**-5
"""A relative error that nobody can use; of one part of many twice that, which vary by chance."""
SEEN = 2.0**-7
"""A relative error of a whole output that can be told from roundings."""
TIMES = 5.0
ULP = 2.0**-11
FEW = 8
"""Entries of a row under which its norm may be near 0 by chance."""


def to_half(x: Array) -> Array:
    """Rounded as FP16 stores it; beyond its range infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float32).astype(np.float16).astype(np.float32)


def to_eleven(x: Array) -> Array:
    """Rounded to a significand of 11 bits at any exponent."""
    mantissa, exponent = np.frexp(np.asarray(x, np.float64))
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = np.ldexp(np.rint(mantissa * 2048.0) / 2048.0, exponent)
    return np.where(np.isfinite(x), rounded, x).astype(np.float32)


@dataclass(frozen=True)
class Judgement:
    """The worst of all outputs of all samples, and why."""

    verdict: Verdict
    why: str = ""
    error: float = 0.0
    floor: float = 0.0


def judge(
    reference: Sequence[Array],
    candidate: Sequence[Array],
    floor: Sequence[Array],
    scales: Sequence[float] = (),
) -> Judgement:
    """One sample. `scales` are natural scales of bounded outputs, 0.0 for others.

    >>> x = np.array([[1.0, 2.0], [1e-8, 2e-8]])
    >>> judge([x], [np.array([[1.0, 2.0], [0.0, 0.0]])], [x]).verdict
    'wrong'
    """
    if len(candidate) != len(reference):
        return Judgement("wrong", f"{len(candidate)} outputs, not {len(reference)}", np.inf)
    scales = scales or [0.0] * len(reference)
    found = [
        _output(f"output {i}", *map(np.asarray, parts))
        for i, parts in enumerate(zip(reference, candidate, floor, scales, strict=True))
    ]
    return worst(found)


def worst(found: Sequence[Judgement]) -> Judgement:
    """What counts of several judgements; errors are the largest of all."""
    order = ("right", "limited", "wrong")
    verdict = max(found, key=lambda j: order.index(j.verdict), default=Judgement("right"))
    error, floor = (max((getattr(j, n) for j in found), default=0.0) for n in ("error", "floor"))
    return Judgement(verdict.verdict, verdict.why, error, floor)


def _output(name: str, x: Array, y: Array, z: Array, scale: Array) -> Judgement:
    if y.shape != x.shape or (x.dtype.kind == "f") != (y.dtype.kind == "f"):
        return Judgement("wrong", f"{name}: {y.dtype} {y.shape}, not {x.dtype} {x.shape}", np.inf)
    if z.shape != x.shape:
        return Judgement("limited", f"{name}: the floor has another shape")
    if x.dtype.kind != "f":
        return _integers(name, x, y, z)
    x, y, z = (a.astype(np.float64) for a in (x, y, z))
    odd = _odd(x, y)
    if odd.any():
        verdict = "limited" if (_odd(x, z) & odd).sum() * 2 >= odd.sum() else "wrong"
        return Judgement(verdict, f"{name}: {odd.sum()} entries are not finite alike", np.inf)
    return _numbers(name, x, y, z, float(scale))


def _integers(name: str, x: Array, y: Array, z: Array) -> Judgement:
    bad, of_floor = int((x != y).sum()), int((x != z).sum())
    if not bad:
        return Judgement("right")
    share = bad / x.size
    verdict = "limited" if 2 * of_floor >= bad else "wrong"
    return Judgement(
        verdict, f"{name}: {bad} of {x.size} integers differ", share, of_floor / x.size
    )


def _odd(x: Array, y: Array) -> Array:
    """Entries of which one is not finite and the other is something else."""
    same = (np.isfinite(x) & np.isfinite(y)) | (x == y) | (np.isnan(x) & np.isnan(y))
    return ~same


def _numbers(name: str, x: Array, y: Array, z: Array, scale: float) -> Judgement:
    counted = np.isfinite(x) & np.isfinite(z)
    x, y, z = (np.where(counted, a, 0.0) for a in (x, y, z))
    error, least = np.abs(y - x), np.abs(z - x)
    error = np.where(error <= 2 * ULP * scale, 0.0, error)
    flushed = (y == 0) & (x != 0) & (error > 0) & (least < np.abs(x) / 64)
    total = _relative(error, x), _relative(least, x)
    if flushed.any():
        return Judgement("wrong", f"{name}: {flushed.sum()} entries of {x.size} are 0", *total)
    bound = max(64 * least.max(initial=0.0), LIMIT * max(scale, _rms(x)))
    stray = error > np.maximum(np.abs(x) / 4, bound)
    if stray.any():
        return Judgement("wrong", f"{name}: {stray.sum()} entries of {x.size} stray", *total)
    usable = True
    for what, parts in _parts(x, error, least, bounded=scale > 0):
        size, of_error, of_floor = (np.sqrt((a**2).sum(-1)) for a in parts)
        usual = np.median(of_floor / np.maximum(size, 1e-300))
        whole = what == "all"
        if parts[0].shape[-1] < FEW and not whole:
            size = np.maximum(size, _rms(x) * np.sqrt(parts[0].shape[-1]))
        size = size if whole else np.maximum(size, scale)
        best = np.maximum(np.maximum(of_floor, usual * size), ULP * size)
        bad = of_error > np.maximum(TIMES * best, (SEEN if whole else LIMIT) * size)
        if bad.any():
            i = int(np.argmax(np.where(bad, of_error / np.maximum(size, 1e-300), 0.0)))
            far = of_error[i] / max(size[i], 1e-300)
            return Judgement("wrong", f"{name}: {what} {i} is {far:.2g} off", *total)
        usable &= bool((of_error <= (1 if whole else 2) * LIMIT * size).all())
    if not usable:
        return Judgement("limited", f"{name}: {total[0]:.2g} off, and so is the floor", *total)
    return Judgement("right", "", *total)


def _parts(
    x: Array, error: Array, least: Array, *, bounded: bool
) -> Iterator[tuple[str, list[Array]]]:
    """All of an output, its items, rows, features and channels: matrices with one part a row.

    Features of bounded outputs are no parts: a class that never comes is small beside 1.
    """
    arrays = (x, error, least)
    yield "all", [a.reshape(1, -1) for a in arrays]
    if x.ndim > 1 and x.size:
        yield "item", [a.reshape(a.shape[0], -1) for a in arrays]
        if x.ndim == 3:
            yield "row", [a.reshape(-1, a.shape[-1]) for a in arrays]
        if bounded:
            return
        yield "feature", [a.reshape(-1, a.shape[-1]).T for a in arrays]
        if x.ndim > 2:
            moved = [np.moveaxis(a, 1, 0) for a in arrays]
            yield "channel", [a.reshape(a.shape[0], -1) for a in moved]


def _rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2))) if x.size else 0.0


def _relative(error: Array, x: Array) -> float:
    norm = float(np.linalg.norm(x))
    found = float(np.linalg.norm(error))
    return found / norm if norm else (np.inf if found else 0.0)


def max_rel(reference: Sequence[Array], found: Sequence[Array]) -> float:
    """The largest error of an entry over the largest entry of its output; inf for what is lost."""
    worst = 0.0
    for x, y in zip(reference, found, strict=True):
        if x.dtype.kind != "f" or not x.size:
            continue
        counted = np.isfinite(x)
        if not np.isfinite(y[counted]).all():
            return np.inf
        size = np.abs(x[counted]).max(initial=0.0)
        worst = max(worst, np.abs(y - x)[counted].max(initial=0.0) / max(size, 1e-300))
    return float(worst)


# PyTorch


@contextmanager
def _rounding(mode: Mode) -> Iterator[None]:
    """Every FP32 tensor that an operator returns is rounded; layers run in their parts."""
    import torch
    from torch.utils import _pytree as pytree
    from torch.utils._python_dispatch import TorchDispatchMode

    def rounded(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or x.dtype != torch.float32:
            return x
        return torch_rounded(x, mode)

    class Rounding(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            out = func(*args, **(kwargs or {}))
            if func._schema.is_mutable:
                for x in pytree.tree_leaves(out):
                    if isinstance(x, torch.Tensor) and x.dtype == torch.float32:
                        x.copy_(torch_rounded(x, mode))
                return out
            aliased = any(r.alias_info is not None for r in func._schema.returns)
            return out if aliased else pytree.tree_map(rounded, out)

    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False), Rounding():
        yield


def torch_rounded(x: Any, mode: Mode) -> Any:
    """A tensor of FP32 rounded to FP16 or to 11 bits."""
    import torch

    if mode != "floor":
        return x.half().float()
    mantissa, exponent = torch.frexp(x.double())
    found = torch.ldexp(torch.round(mantissa * 2048.0) / 2048.0, exponent).float()
    return torch.where(torch.isfinite(x), found, x)


def torch_outputs(out: Any) -> list[Array]:
    """All tensors of a result, those of a dict by key; floats in FP64, complex ones as pairs."""
    import torch
    from torch.utils import _pytree as pytree

    out = out.to_tuple() if hasattr(out, "to_tuple") else out
    out = dict(sorted(out.items())) if isinstance(out, dict) else out
    leaves = [t.detach() for t in pytree.tree_leaves(out) if isinstance(t, torch.Tensor)]
    leaves = [torch.view_as_real(t) if t.is_complex() else t for t in leaves]
    return [t.double().numpy() if t.is_floating_point() else t.numpy() for t in leaves]


def torch_called(model: Any, sample: Any, change: Any = lambda x: x) -> list[Array]:
    """The model on one sample, its tensors changed first."""
    import torch
    from torch.utils import _pytree as pytree

    args, kwargs = ((), sample) if isinstance(sample, Mapping) else (sample, {})
    args = args if isinstance(args, tuple) else (args,)
    args, kwargs = pytree.tree_map(
        lambda x: change(x) if isinstance(x, torch.Tensor) and x.is_floating_point() else x,
        (args, kwargs),
    )
    with torch.no_grad():
        return torch_outputs(model(*args, **kwargs))


def torch_strict(model: Any, sample: Any, mode: Mode) -> list[Array]:
    """A model in FP32 with everything that is stored rounded, parameters and inputs too."""
    import torch

    model = copy.deepcopy(model)
    with torch.no_grad():
        for x in (*model.parameters(), *model.buffers()):
            if x.dtype == torch.float32:
                x.copy_(torch_rounded(x, mode))
    with _rounding(mode):
        return torch_called(model, sample, lambda x: torch_rounded(x, mode))


def is_torch_half(model: Any) -> bool:
    return any("float16" in str(p.dtype) for p in (*model.parameters(), *model.buffers()))


def judge_torch(model: Any, candidate: Any, samples: Sequence[Any], scales: Any = ()) -> Judgement:
    """A module in FP16 runs in its own kernels, one in FP32 with every value rounded."""
    found: list[Judgement] = []
    for sample in samples:
        reference = torch_called(model, sample)
        floor = torch_strict(model, sample, "floor")
        if is_torch_half(candidate):
            after = torch_called(candidate, sample, lambda x: x.half())
        else:
            after = torch_strict(candidate, sample, "half")
        found.append(judge(reference, after, floor, scales))
    return worst(found)


# ONNX

HALF, FULL = TensorProto.FLOAT16, TensorProto.FLOAT
SINGLE = {"Resize": (1, 2), "Upsample": (1,)}
"""Operands that are FP32 in any file, by the schema."""
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class Strict:
    """Rewrites a file: each value of the mode's type is rounded behind the node that makes it."""

    def __init__(self, model: onnx.ModelProto, mode: Mode) -> None:
        self.mode, self.count = mode, 0
        self.model = onnx.shape_inference.infer_shapes(copy.deepcopy(model))
        self.wanted = HALF if mode == "own" else FULL
        self._graph(self.model.graph, {}, {}, top=True)
        if mode == "floor":
            split, big = (numpy_helper.from_array(np.float32(x), n) for x, n in
                          ((8193.0, "judge.split"), (1e34, "judge.big")))  # fmt: skip
            self.model.graph.initializer.extend([split, big])

    def _rounded(self, array: Array) -> Array:
        return to_eleven(array) if self.mode == "floor" else to_half(array)

    def _stored(self, raw: str, name: str) -> list[onnx.NodeProto]:
        """Nodes that give `name`, the value `raw` as it is stored."""
        make, p = helper.make_node, f"{name}.judge{self.count}"
        self.count += 1
        if self.mode != "floor":
            down, up = make("Cast", [raw], [p], to=HALF), make("Cast", [p], [name], to=FULL)
            return [down, up]
        return [
            make("Mul", [raw, "judge.split"], [p + "c"]),
            make("Sub", [p + "c", raw], [p + "d"]),
            make("Sub", [p + "c", p + "d"], [p + "r"]),
            make("Abs", [raw], [p + "a"]),
            make("Less", [p + "a", "judge.big"], [p + "b"]),
            make("Where", [p + "b", p + "r", raw], [name]),
        ]

    def _tensor(self, found: onnx.TensorProto) -> None:
        array = self._rounded(numpy_helper.to_array(found).astype(np.float32))
        found.CopyFrom(numpy_helper.from_array(array, found.name))

    def _graph(
        self, graph: Any, types: Mapping[str, int], renamed: Mapping[str, str], *, top: bool
    ) -> None:
        types = {**types, **_types(graph)}
        own = {v.name for v in graph.input} | {i.name for i in graph.initializer}
        own |= {o for n in graph.node for o in n.output}
        renamed = {k: v for k, v in renamed.items() if k not in own}
        kept = {
            n.input[i]
            for n in graph.node
            for i in SINGLE.get(n.op_type, ())
            if i < len(n.input) and n.input[i]
        }
        nodes: list[onnx.NodeProto] = []
        for held in graph.initializer:
            if held.data_type == self.wanted and (self.mode == "own" or held.name not in kept):
                self._tensor(held)
        if top:
            for v in graph.input:
                if types.get(v.name) == self.wanted and v.name not in kept:
                    renamed[v.name] = f"{v.name}.judge.in"
                    nodes += self._stored(v.name, renamed[v.name])
        for node in graph.node:
            nodes += self._node(node, types, renamed, kept)
        for v in graph.output:
            if v.name in renamed:
                nodes.append(helper.make_node("Identity", [renamed[v.name]], [v.name + ".judge"]))
                v.name += ".judge"
        for v in (*graph.input, *graph.output):
            if self.mode == "own":
                _widen(v.type)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(nodes)

    def _node(
        self, node: Any, types: Mapping[str, int], renamed: Mapping[str, str], kept: set[str]
    ) -> list[onnx.NodeProto]:
        makes = [o for o in node.output if types.get(o) == self.wanted]
        if self.mode != "own":
            makes = [o for o in makes if o not in kept]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                self._graph(attribute.g, types, renamed, top=False)
            elif self.mode == "own" and attribute.name in ("to", "dtype"):
                attribute.i = FULL if attribute.i == HALF else attribute.i
            elif attribute.type == onnx.AttributeProto.TENSOR and makes:
                self._tensor(attribute.t)
        single = SINGLE.get(node.op_type, ())
        for i, name in enumerate(node.input):
            if name in renamed and i not in single:
                node.input[i] = renamed[name]
        if node.op_type == "Constant":
            return [node]
        found = [node]
        for i, name in enumerate(node.output):
            if name in makes:
                node.output[i] = f"{name}.judge.raw"
                found += self._stored(node.output[i], name)
        return found


def _types(graph: Any) -> dict[str, int]:
    """Element types of what is a tensor."""
    values = (*graph.value_info, *graph.input, *graph.output)
    found = {v.name: v.type.tensor_type.elem_type for v in values if v.type.HasField("tensor_type")}
    return found | {i.name: i.data_type for i in graph.initializer}


def _widen(kind: Any) -> None:
    while kind.HasField("sequence_type") or kind.HasField("optional_type"):
        field = "sequence_type" if kind.HasField("sequence_type") else "optional_type"
        kind = getattr(kind, field).elem_type
    if kind.HasField("tensor_type") and kind.tensor_type.elem_type == HALF:
        kind.tensor_type.elem_type = FULL


def session(model: onnx.ModelProto | str, optimised: bool = False) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    data = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def fed(
    run: onnxruntime.InferenceSession, sample: Mapping[str, Array], names: Sequence[str] = ()
) -> list[Array]:
    """One sample, cast to the types of the inputs; the outputs in the order of their names."""
    found = run.run(None, {i.name: _as(sample[i.name], i.type) for i in run.get_inputs()})
    own = [o.name.removesuffix(".judge") for o in run.get_outputs()]
    arrays = [np.asarray(x) for x in found]
    return [arrays[own.index(n)] for n in names] if sorted(own) == sorted(names) else arrays


def _as(x: Array, kind: str) -> Array:
    x = np.asarray(x)
    return x.astype(DTYPES[kind]) if kind in DTYPES else x


class OnnxJudge:
    """A file in FP32, made ready once; candidates are judged against it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.reference, self.floor = session(model), session(Strict(model, "floor").model)

    def judge(
        self, candidate: onnx.ModelProto, samples: Sequence[Mapping[str, Array]], scales: Any = ()
    ) -> Judgement:
        """A file with FP16 in it is rounded where it stores FP16, any other everywhere."""
        mode: Mode = "own" if has_half(candidate) else "half"
        running = session(Strict(candidate, mode).model)
        runs, names = (self.reference, running, self.floor), _names(self.reference)
        found = [
            judge(*(fed(run, sample, names) for run in runs), scales=scales) for sample in samples
        ]
        return worst(found)


def _names(run: onnxruntime.InferenceSession) -> list[str]:
    return [o.name for o in run.get_outputs()]


def has_half(model: onnx.ModelProto) -> bool:
    typed = onnx.shape_inference.infer_shapes(model)
    return HALF in _types(typed.graph).values()


def judge_onnx(model: Any, candidate: Any, samples: Sequence[Any], scales: Any = ()) -> Judgement:
    return OnnxJudge(model).judge(candidate, samples, scales)

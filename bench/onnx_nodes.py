"""The ONNX standard's own tests: every packaged node test, and the packaged real architectures.

Run as ``python -m bench.onnx_nodes``. Each node test of the onnx package that takes FP32 is opened
as it is, and once more with all inputs but the first as initialisers. It must give the expected
outputs untouched, and again with every value stored at random exponents that satisfy the equations
of its graph. Skipped tests are counted by reason. The architectures are fixed like anyone's model;
their weights are made up, so degenerate outputs are said to be so.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.backend.test.loader import DATA_DIR, load_model_tests

import halfsafe
from bench.onnx_accuracy import is_bit_equal, left_in_float32
from bench.record import record
from halfsafe.errors import HalfsafeError, first_line
from halfsafe.frontends.onnx.runtime import session
from halfsafe.frontends.onnx.source import OnnxSource
from halfsafe.graph import Graph, Use
from halfsafe.plan import Plan
from halfsafe.rewrite import rewrite
from halfsafe.rules import equations, law_of
from halfsafe.rules.solve import drawn, is_pinned, reads, stated
from halfsafe.samples import Call
from halfsafe.windows import Limits

Array = NDArray[Any]

COMMAND = "python -m bench.onnx_nodes"
LIGHT = Path(DATA_DIR) / "light"
REACH = 6
SEEDS = (0, 1)
SECONDS = 120.0
"""How long one architecture may take to plan."""

REFUSALS = {
    "Unsupported model IR version": "IR version newer than it knows",
    "ValidateOpsetForDomain": "opset newer than it knows",
    "Unrecognized attribute": "attributes newer than it knows",
    "not a registered function/op": "unknown operator",
    "Could not find an implementation": "no kernel for the types",
    "Batchwise recurrent operations": "no kernel for the layout",
    "can't be converted to MLDataType": "types that NumPy does not have",
    "Non-zero status code": "it fails on these inputs",
}
"""ONNX Runtime's own words for what it cannot run, and ours."""


@dataclass(frozen=True)
class NodeTest:
    """A model of the standard with its inputs by name, and the outputs that it must give."""

    name: str
    model: onnx.ModelProto
    feeds: Mapping[str, Any]
    expected: Sequence[Any]
    rtol: float
    atol: float

    @property
    def call(self) -> Call:
        return Call((), dict(self.feeds))

    @property
    def single(self) -> bool:
        """Whether this is one operator, not the expansion of one into others."""
        return len(self.model.graph.node) == 1

    @property
    def op(self) -> str:
        """The operator, or the name of the test of an expansion."""
        node = self.model.graph.node[0]
        name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        return name if self.single else self.name

    def is_met(self, outputs: Sequence[Any]) -> bool:
        pairs = zip(outputs, self.expected, strict=True)
        return all(_is_close(found, want, self.rtol, self.atol) for found, want in pairs)

    def difference(self, outputs: Sequence[Any]) -> str:
        """The first output that is not as expected, in words."""
        for i, (found, want) in enumerate(zip(outputs, self.expected, strict=True)):
            a, b = np.asarray(found), np.asarray(want)
            if _is_close(a, b, self.rtol, self.atol):
                continue
            if a.shape != b.shape or a.dtype != b.dtype:
                return f"output {i} is {a.dtype}{list(a.shape)}, not {b.dtype}{list(b.shape)}"
            if a.dtype.kind == "f":
                return f"output {i} is off by {np.nanmax(np.abs(a - b)):.3g}"
            return f"output {i} has {int((a != b).sum())} other entries"
        return ""

    def with_initialisers(self) -> NodeTest | None:
        """All inputs but the first as initialisers; None where there are no others."""
        _, *others = self.model.graph.input
        if not others:
            return None
        model = onnx.ModelProto.FromString(self.model.SerializeToString())
        model.ir_version = max(model.ir_version, 4)  # before, initialisers had to be inputs too
        del model.graph.input[1:]
        for value in others:
            tensor = numpy_helper.from_array(np.asarray(self.feeds[value.name]), value.name)
            model.graph.initializer.append(tensor)
        first = model.graph.input[0].name
        return replace(self, model=model, feeds={first: self.feeds[first]})


def node_tests() -> list[NodeTest]:
    """All node tests of the installed onnx package."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = load_model_tests(kind="node")
    tests: list[NodeTest] = []
    for case in found:
        inputs, outputs = case.data_sets[0]
        names = [value.name for value in case.model.graph.input]
        feeds = dict(zip(names, map(_plain, inputs), strict=False))
        expected = [_plain(output) for output in outputs]
        tests.append(NodeTest(case.name, case.model, feeds, expected, case.rtol, case.atol))
    return tests


def reason_to_skip(test: NodeTest) -> str | None:
    """Why a test says nothing of halfsafe, if it does not."""
    inputs, outputs = test.model.graph.input, test.model.graph.output
    if any(not value.type.HasField("tensor_type") for value in (*inputs, *outputs)):
        return "sequences or optional values at the rim"
    if all(value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT for value in inputs):
        return "no FP32 input"
    try:
        outputs = session(ir.from_proto(test.model)).run(None, dict(test.feeds))
    except Exception as error:
        return f"ONNX Runtime cannot run it: {_kind(error)}"
    if not test.is_met(outputs):
        return "ONNX Runtime gives other outputs than the standard expects"
    arrays = [np.asarray(x) for x in test.feeds.values()]
    if any(x.dtype == np.float16 for x in arrays + list(map(np.asarray, outputs))):
        return "FP16 values, which halfsafe refuses"
    if not all(np.isfinite(x).all() for x in arrays if x.dtype.kind == "f"):
        return "inputs hold NaN or inf, which halfsafe refuses"
    return None


@dataclass(frozen=True)
class Outcome:
    """What became of one test in one form.

    `edits` is how many a plan took at most, `pinned` has for each operator with floating operands
    whether its equations pin all of them.
    """

    identity: bool = False
    random: bool = False
    bit_equal: bool = False
    edits: int = 0
    pinned: Mapping[str, bool] = field(default_factory=dict[str, bool])
    error: str = ""


def outcome(test: NodeTest, seeds: Iterable[int] = SEEDS) -> Outcome:
    """Runs a test untouched, then at random exponents."""
    found = Outcome()
    stage = "open"
    try:
        source = OnnxSource.open(test.model, test.call)
        found = replace(found, pinned=pinned(source.graph))
        plain = source.apply([]).program.run(test.call)
        if not test.is_met(plain):
            return replace(found, error=f"identity: {test.difference(plain)}")
        found = replace(found, identity=True, bit_equal=True)
        ranges = source.measure([test.call], lambda _: None) | source.constants()
        for seed in seeds:
            stage = f"random {seed}"
            plan = random_plan(source.graph, seed)
            edits = rewrite(source.graph, plan, ranges, Limits())
            outputs = source.apply(edits).program.run(test.call)
            same = all(map(_is_equal, outputs, plain))
            found = replace(
                found,
                bit_equal=found.bit_equal and same,
                edits=max(found.edits, len(edits)),
            )
            if not test.is_met(outputs):
                return replace(found, error=f"{stage}: {test.difference(outputs)} after {edits}")
    except Exception as error:
        return replace(found, bit_equal=False, error=f"{stage}: {first_line(error)}")
    return replace(found, random=True)


def random_plan(graph: Graph, seed: int) -> Plan:
    """A random integer solution of all equations, as far from 0 as a random direction allows."""
    rows = [*stated(graph), *({use: 1, name: -1} for use, name in reads(graph))]
    solution = drawn(rows, reach=REACH, seed=seed)
    exponents = {u: k for u, k in solution.items() if isinstance(u, str)}
    uses = {u: k for u, k in solution.items() if isinstance(u, Use)}
    return Plan(exponents, uses, (), ())


def pinned(graph: Graph) -> dict[str, bool]:
    """For each operator with floating operands, whether all of them are pinned by its equations."""
    found: dict[str, bool] = {}
    for node in graph.nodes:
        operands = [o for o, v in node.inputs.items() if graph.values[v].floating]
        if not operands:
            continue
        laws = [e.terms for e in equations(graph, node, law_of(node))]
        fixed = all(is_pinned(laws, Use(node.name, operand)) for operand in operands)
        found[node.op] = found.get(node.op, True) and fixed
    return found


# Real architectures


def light(path: Path, samples: int = 2) -> dict[str, Any]:
    """One packaged architecture, fixed on random images."""
    original = ir.load(path)
    random = np.random.default_rng(0)
    held = original.graph.initializers
    shapes = {str(v.name): v.shape.numpy() for v in original.graph.inputs if v.name not in held}
    feeds = [
        {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(samples)
    ]
    outputs = session(original).run(None, feeds[-1])
    about = {"model": path.stem.removeprefix("light_"), "reference": _character(outputs)}
    start = time.perf_counter()

    def in_time(stage: str) -> None:
        if time.perf_counter() - start > SECONDS:
            raise TimeoutError(f"still {stage} after {SECONDS:.0f} s")

    try:
        fixed = halfsafe.fix(path, feeds, progress=in_time)
        half = fixed.half()
    except (HalfsafeError, TimeoutError) as error:
        return {**about, "error": first_line(error)}
    seconds = time.perf_counter() - start
    proof = fixed.report.verification
    assert proof is not None
    float32, casts = left_in_float32(half)
    return {
        **about,
        "nodes": len(fixed.report.graph.nodes),
        "bit_equal": is_bit_equal(original, fixed.model, feeds[-1], optimised=False),
        "bit_equal_optimised": is_bit_equal(original, fixed.model, feeds[-1], optimised=True),
        "before_nonfinite": proof.before_nonfinite,
        "after_nonfinite": proof.after_nonfinite,
        "before": proof.before,
        "after": proof.after,
        "floor": proof.floor,
        "ratio": round(proof.ratio, 4),
        "inserted": len(fixed.report.insertions),
        "unresolved": len(fixed.report.conflicts),
        "float32_operators": float32,
        "casts_inside": casts,
        "seconds": round(seconds, 2),
    }


def _character(outputs: Sequence[Array]) -> str:
    """What kind of numbers a reference consists of: it proves little where they are all equal."""
    flat = np.concatenate([np.asarray(x, np.float64).ravel() for x in outputs])
    if not np.isfinite(flat).all():
        return f"{int((~np.isfinite(flat)).sum())} of {flat.size} not finite"
    distinct = np.unique(flat).size
    return f"constant {flat[0]:.6g}" if distinct == 1 else f"{distinct} of {flat.size} distinct"


# Comparing


def _plain(found: Any) -> Any:
    if isinstance(found, onnx.TensorProto):
        return numpy_helper.to_array(found)
    return np.asarray(found) if isinstance(found, np.generic) else found


def _is_close(found: Any, expected: Any, rtol: float, atol: float) -> bool:
    a, b = np.asarray(found), np.asarray(expected)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return np.allclose(a, b, rtol, atol, equal_nan=True) if b.dtype.kind == "f" else _is_equal(a, b)


def _is_equal(a: Any, b: Any) -> bool:
    return np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f")


def _kind(error: Exception) -> str:
    """What ONNX Runtime's message comes down to."""
    text = str(error)
    return next((reason for said, reason in REFUSALS.items() if said in text), first_line(error))


def run_nodes() -> dict[str, Any]:
    """All node tests: a summary, skips by reason, and whatever failed."""
    tests, skipped = node_tests(), Counter[str]()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    fixed: dict[str, bool] = {}
    failures: list[dict[str, str]] = []
    for test in tests:
        reason = reason_to_skip(test)
        if reason is not None:
            skipped[reason] += 1
            continue
        kind = "single operators" if test.single else "expansions"
        forms = {kind: test, f"{kind}, initialisers": test.with_initialisers()}
        for form, variant in forms.items():
            if variant is None:
                continue
            found = outcome(variant)
            counts[form]["models"] += 1
            counts[form]["identity"] += found.identity
            counts[form]["random"] += found.random
            counts[form]["bit_equal"] += found.bit_equal
            counts[form]["rescaled"] += found.random and found.edits > 0
            if found.error:
                failures.append({"test": test.name, "form": form, "error": found.error})
                print(f"FAILED {test.name} ({form}): {found.error}", flush=True)
            if test.single:
                for op, all_pinned in found.pinned.items():
                    fixed[op] = fixed.get(op, True) and all_pinned
    return {
        "summary": {
            "tests": len(tests),
            "skipped": sum(skipped.values()),
            "operators": len(fixed),
            **{form: dict(count) for form, count in counts.items()},
            "failures": len(failures),
        },
        "skipped": dict(skipped.most_common()),
        "pinned_operators": sorted(op for op, all_pinned in fixed.items() if all_pinned),
        "failures": failures,
    }


def _print_nodes(figures: Mapping[str, Any]) -> None:
    for key, found in figures["summary"].items():
        print(f"{key}: {found}")
    for reason, count in figures["skipped"].items():
        print(f"  skipped {count:4}  {reason}")
    print(f"pinned: {' '.join(figures['pinned_operators'])}")


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    figures = run_nodes()
    _print_nodes(figures)
    record("onnx_nodes", COMMAND, figures)
    rows = []
    for path in sorted(LIGHT.glob("*.onnx")):
        rows.append(light(path))
        print(rows[-1], flush=True)
    record("onnx_light", COMMAND, {"rows": rows})


if __name__ == "__main__":
    main()

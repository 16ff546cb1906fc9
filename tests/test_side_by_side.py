"""Samples that run side by side give what each gives alone, and read every constant once."""

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import halfsafe
from halfsafe.deviation import same
from halfsafe.errors import BadInput
from halfsafe.formats import FLOAT16, FLOAT32, FLOOR
from halfsafe.frontends import open_model
from halfsafe.frontends.onnx.one_node import OneNode
from halfsafe.frontends.onnx.source import OnnxSource
from halfsafe.frontends.torch.source import TorchSource
from halfsafe.graph import Graph, Kind, Node, Value
from halfsafe.measure import at_once, evaluate_on, side_by_side
from halfsafe.proof import Proof
from halfsafe.references import Reference, References
from halfsafe.samples import Call, batches
from tests.replicas import Net, scaled
from tests.test_large_models import SAMPLES, loud
from tests.test_onnx_bodies import BRANCHES, LOOP
from tests.test_onnx_constants import BRANCHED, STORED, network, weights

FORMATS = (FLOAT32, FLOAT16, FLOOR)


def feeds(sizes: tuple[int, ...], signs: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(2)
    pairs = zip(sizes, signs, strict=True)
    return [{"x": s * abs(rng.normal(size=(n, 4))).astype(np.float32)} for n, s in pairs]


def onnx_source(body: str) -> tuple[OnnxSource, list[Call]]:
    """A network with a body; samples of different sizes, which take different branches."""
    held = {"stored": weights(1)} if "stored" in body else {}
    outputs = {LOOP: "float[N, 4] last", BRANCHES: "float[N, 4] z"}.get(body, "float[N, 4] y")
    given = [Call((), f, i) for i, f in enumerate(feeds((2, 5, 3), (1, -1, 1)))]
    return OnnxSource.open(network(body, outputs, **held), given[0]), given


def torch_source() -> tuple[TorchSource, list[Call]]:
    given = [Call(sample, {}, i) for i, sample in enumerate(SAMPLES)]
    return open_model(loud(), given[0]), given


def equal(a: Any, b: Any) -> bool:
    return all(map(same, a, b)) and len(a) == len(b)


def alone(source: Any, call: Call, lanes: Any) -> bool:
    """Whether the outputs on each lane are those that the sample gives by itself."""
    return all(map(equal, lanes, [source.evaluate(call, fmt) for fmt in FORMATS]))


@pytest.mark.parametrize("body", [STORED, BRANCHED, BRANCHES, LOOP])
def test_files_with_bodies_and_sizes_that_vary(body):
    source, given = onnx_source(body)
    for together, call in zip(source.evaluate_on(given, FORMATS), given, strict=True):
        assert alone(source, call, together)


def test_modules():
    source, given = torch_source()
    for together, call in zip(source.evaluate_on(given, FORMATS), given, strict=True):
        assert alone(source, call, together)


def test_what_draws_numbers_draws_the_same_ones():
    model = Net(lambda m, x: m.fc(x) + torch.rand(8), fc=nn.Linear(8, 8)).eval()
    given = [Call((torch.randn(2, 8),), {}, i) for i in range(3)]
    source = open_model(model, given[0])
    for (together,), call in zip(source.evaluate_on(given, (FLOAT32,)), given, strict=True):
        assert equal(together, source.evaluate(call, FLOAT32))


@pytest.mark.parametrize("lanes", [FORMATS, FORMATS[:1]])
def test_a_constant_is_read_once(monkeypatch, lanes):
    source, given = onnx_source(BRANCHED)
    read = Counter[str]()
    from halfsafe.frontends.onnx import run

    constant = run.constant
    monkeypatch.setattr(
        run, "constant", lambda model, name: (read.update([name]), constant(model, name))[1]
    )
    evaluate_on(source.program, given, lanes)
    assert read and set(read.values()) == {1}

    module, given = torch_source()
    taken, held = Counter[str](), module.program.constants
    get = type(held).__getitem__
    monkeypatch.setattr(
        type(held), "__getitem__", lambda self, name: (taken.update([name]), get(self, name))[1]
    )
    evaluate_on(module.program, given, lanes)
    readers = {name: len(uses) for name, uses in module.graph.consumers.items()}
    assert taken == {name: readers[name] for name in taken} and len(taken) > 10


def test_what_depends_on_constants_alone_is_computed_once(monkeypatch):
    source, given = onnx_source(STORED)
    ran, call = Counter[str](), OneNode.__call__
    monkeypatch.setattr(
        OneNode, "__call__", lambda one, *a: (ran.update([one.node.op_type]), call(one, *a))[1]
    )
    evaluate_on(source.program, given, (FLOAT32,))
    assert (ran["Cast"], ran["MatMul"]) == (2, 2 * len(given))


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_a_sample_that_does_not_fit_is_named(kind):
    source, given = onnx_source(BRANCHED) if kind == "onnx" else torch_source()
    wrong = {"x": np.ones((2, 5), np.float32)}
    misfit = Call((), wrong, 7) if kind == "onnx" else Call((torch.zeros(3, 9, 16),), {}, 7)
    with pytest.raises(BadInput, match="sample 7"):
        source.evaluate_on([*given, misfit], FORMATS)


@pytest.mark.parametrize("kind", ["onnx", pytest.param("torch", marks=pytest.mark.slow)])
def test_reports_do_not_depend_on_it(monkeypatch, kind):
    def reports() -> list[str]:
        if kind == "torch":
            model, given = loud(), SAMPLES
        else:
            model, given = network(BRANCHED, stored=weights(1)), feeds((2, 2, 3, 2), (1, -1, 1, 1))
        found = halfsafe.inspect(model, given), halfsafe.fix(model, given).report
        return [json.dumps(report.to_json(), sort_keys=True) for report in found]

    one_by_one = reports()
    monkeypatch.setattr("halfsafe.measure.at_once", lambda graph, lanes: 3)
    assert reports() == one_by_one


def test_a_stream_that_writes_over_its_arrays_is_taken_one_by_one(monkeypatch):
    monkeypatch.setattr("halfsafe.measure.at_once", lambda graph, lanes: 3)
    given = feeds((2, 2, 2, 2), (1, -1, 1, 1))

    def stream():
        x = np.empty((2, 4), np.float32)
        for i, sample in enumerate(given):
            x[:] = 10.0**i * sample["x"]
            yield {"x": x}

    model = network(BRANCHED, stored=weights(1))
    apart = [{"x": np.float32(10.0**i) * sample["x"]} for i, sample in enumerate(given)]
    found, known = (halfsafe.inspect(model, samples) for samples in (stream(), apart))
    assert {n: v.range for n, v in found.values.items()} == {
        n: v.range for n, v in known.values.items()
    }


def test_how_many():
    def value(name: str, size: int, kind: Kind = Kind.ACTIVATION) -> Value:
        return Value(name, kind, floating=True, shape=(size,))

    values = [
        value("x", 10, Kind.INPUT), value("w", 10_000, Kind.CONSTANT), value("a", 100),
        value("b", 20), value("c", 5), value("v", 10_000),
    ]  # fmt: skip
    nodes = (
        Node("n", "matmul", {"self": "x", "other": "w"}, ("a",)),
        Node("m", "relu", {"self": "a"}, ("b",)),
        Node("t", "t", {"self": "w"}, ("v",)),
        Node("o", "add", {"self": "b", "other": "x", "third": "v"}, ("c",)),
    )
    graph = Graph(nodes, {v.name: v for v in values}, ("x",), ("c",))
    assert (graph.held, graph.alive) == (10_000, 10 + 100 + 20)
    assert [at_once(graph, lanes) for lanes in (1, 2, 3, 7, 100)] == [8, 8, 6, 2, 1]
    assert list(batches([], 3)) == []
    given = [Call((), {}, i) for i in range(5)]
    assert [[c.number for c in b] for b in batches(given, 2)] == [[0, 1], [2, 3], [4]]
    sized = [Call((np.zeros(n),), {"more": [np.zeros((n, 2))]}, n) for n in (3, 2, 4, 3, 1, 3)]
    found = [[c.number for c in b] for b in side_by_side(graph, sized, 1)]
    assert found == [[3, 2], [4], [3, 1, 3]]


# What is bit-equal to what


def test_a_file_in_one_session_may_differ_from_its_nodes_in_the_last_bit(monkeypatch):
    """As ONNX Runtime's logarithm does where threads share an array: no fault of the rescaling."""
    source, given = onnx_source(BRANCHED)
    known = source.evaluate(given[0], FLOAT32)
    session = [np.nextafter(x, np.inf, dtype=np.float32) for x in known]
    other = [x.copy() for x in known]
    other[0].flat[0] += 1e-4 * np.abs(other[0]).max()  # of one entry: no norm may hide it
    engine = halfsafe.engines.engine_of("strict")
    cases = [(known, 0, True), (session, 0, True), (session, 1e-3, False), (other, 0, False)]
    for own, shift, equal_to in cases:
        references = References(source, FLOOR)
        monkeypatch.setattr(references, "of", lambda call, own=own: Reference(own, known, known))
        proof = Proof(references, source, source, engine)
        monkeypatch.setattr(
            Proof, "_fixed", lambda self, calls, s=shift: [([x * (1 + s) for x in known], known)]
        )
        found = proof.of(given[:1])
        assert found.equal is equal_to
        assert (found.captured > 0) == (own is session)
        exactness = proof.verdict(found).exactness
        assert ("from the model" in exactness) == (own is session and not shift)
        assert any("in FP32" in why for _, why in proof.verdict(found).reasons) != equal_to


def test_what_is_not_bit_equal_is_told_and_islands_do_not_mend_it(monkeypatch):
    monkeypatch.setattr("halfsafe.proof.bit_equal", lambda a, b: False)
    monkeypatch.setattr("halfsafe.proof.worst_difference", lambda a, b: 1e-4)
    torch.manual_seed(0)
    model = nn.Sequential(scaled(nn.Linear(8, 8), 1e6), scaled(nn.Linear(8, 8), 1e-6)).eval()
    proof = halfsafe.fix(model, [torch.randn(4, 8) for _ in range(4)]).report.verification
    assert proof.answer == "not safe"
    assert [why for _, why in proof.reasons] == ["the rescaled model differs by 0.0001 in FP32"]

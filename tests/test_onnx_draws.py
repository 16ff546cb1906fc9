"""Operators that draw numbers draw the same ones whenever a model is run, in every precision."""

import numpy as np
import onnx
import pytest

import halfsafe
from halfsafe.formats import FLOAT32
from halfsafe.frontends.onnx.run import as_it_is
from halfsafe.frontends.onnx.source import OnnxSource
from halfsafe.samples import Call
from tests.test_frontend_onnx import run, text_model

NORMAL = """
    big = Constant <value_float = 2e5> ()
    small = Constant <value_float = 1e-5> ()
    h = Mul (x, big)
    n = RandomNormalLike <SEED> (h)
    m = Mul (n, big)
    z = Add (h, m)
    y = Mul (z, small)
"""

UNIFORM = NORMAL.replace("RandomNormalLike <SEED> (h)", "RandomUniform <SEED shape = [2, 4]> ()")

KEPT = NORMAL.replace("RandomNormalLike <SEED> (h)", "Bernoulli <SEED> (p)").replace(
    "h = Mul", "p = Sigmoid (x) h = Mul"
)

CHOSEN = NORMAL.replace("RandomNormalLike <SEED> (h)", "Cast <to = 1> (i)").replace(
    "h = Mul", "i = Multinomial <SEED sample_size = 4> (x) h = Mul"
)

LOOPED = """
    trips = Constant <value_int = 3> ()
    yes = Constant <value = bool {1}> ()
    big = Constant <value_float = 2e5> ()
    small = Constant <value_float = 1e-5> ()
    h = Mul (x, big)
    z = Loop (trips, yes, h) <
        body = step (int64 i, bool go, float[N, 4] state) => (bool again, float[N, 4] next) {
            again = Identity (go)
            n = RandomNormalLike <SEED> (state)
            m = Mul (n, big)
            next = Add (state, m)
        }
    >
    y = Mul (z, small)
"""

BODIES = [NORMAL, UNIFORM, KEPT, CHOSEN, LOOPED]


def network(body: str, seed: str = "seed = 7.0") -> onnx.ModelProto:
    comma = ", " if "SEED s" in body and seed else ""
    text = body.replace("SEED ", seed + comma).replace("SEED", seed).replace("<>", "")
    return text_model(text, "float[N, 4] x) => (float[N, M] y)")


def samples() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.uniform(0.5, 1, size=(2, 4)).astype(np.float32)} for _ in range(3)]


@pytest.mark.parametrize("seed", ["seed = 7.0", ""])
@pytest.mark.parametrize("body", BODIES, ids="NUBCL")
def test_runs_of_one_sample_are_the_same(body: str, seed: str):
    call = Call((), dict(samples()[0]))
    source = OnnxSource.open(network(body, seed), call)
    runs = [source.reference(call), source.evaluate(call, FLOAT32), source.reference(call)]
    runs += [[x for (x,) in source.program.evaluate(call, as_it_is)] for _ in range(2)]
    assert all(np.array_equal(found[0], runs[0][0]) for found in runs)
    assert source.captured_exactly


@pytest.mark.parametrize("body", BODIES, ids="NUBCL")
def test_the_first_run_of_a_file_with_seeds_is_the_reference(body: str):
    model, x = network(body), samples()[0]
    reference = OnnxSource.open(model, Call((), x)).reference(Call((), x))
    assert np.array_equal(reference[0], run(model, x)[0])


@pytest.mark.parametrize("body", BODIES, ids="NUBCL")
def test_every_lane_draws_the_same(body: str):
    call = Call((), dict(samples()[0]))
    source = OnnxSource.open(network(body), call)
    lanes = source.program.evaluate(call, lambda _, found: tuple(np.array(x) for x in found), 3)
    assert all(np.array_equal(lanes[0][0], x) for x in lanes[0])
    assert len(np.unique(lanes[0][0])) > 1


@pytest.mark.parametrize("seed", ["seed = 7.0", ""])
@pytest.mark.parametrize("body", BODIES, ids="NUBCL")
def test_a_model_that_draws_is_fixed(body: str, seed: str):
    model = network(body, seed)
    fixed = halfsafe.fix(model, samples())
    assert fixed.report.verification is not None
    assert fixed.report.verification.bit_equal
    assert any("without a seed" in note for note in fixed.report.notes) is not bool(seed)
    assert not halfsafe.verify(model, fixed.half(), samples()).after_nonfinite


def test_what_is_written_has_no_seed_of_ours():
    fixed = halfsafe.fix(network(NORMAL, ""), samples())
    drawing = [n for n in fixed.half().graph.node if n.op_type == "RandomNormalLike"]
    assert [a.name for node in drawing for a in node.attribute if a.name == "seed"] == []


def test_statistics_that_a_run_updates_are_those_of_the_file_in_every_run():
    body = """
        one = Constant <value = float[4] {1, 1, 1, 1}> ()
        mean = Constant <value = float[4] {1, 2, 3, 4}> ()
        var = Constant <value = float[4] {4, 3, 2, 1}> ()
        y, m, v = BatchNormalization <training_mode = 1> (x, one, mean, mean, var)
    """
    model = text_model(body, "float[N, 4] x) => (float[N, 4] y, float[4] m, float[4] v)")
    x = samples()[0]
    source = OnnxSource.open(model, Call((), x))
    for _ in range(2):
        assert all(map(np.array_equal, source.reference(Call((), x)), run(model, x)))

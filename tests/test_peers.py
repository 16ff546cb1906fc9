import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bench.peer_macs import left

HEADER = '<ir_version: 10, opset_import: ["" : 20]> g (float[2,3,8,8] x) => (float y) '


def made(body: str, **weights: tuple[int, ...]) -> ir.Model:
    model = onnx.parser.parse_model(HEADER + "{" + body + "}")
    for name, shape in weights.items():
        tensor = onnx.numpy_helper.from_array(np.ones(shape, np.float32), name)
        model.graph.initializer.append(tensor)
    return ir.from_proto(model)


@pytest.mark.parametrize(
    ("body", "weights", "expected"),
    [
        ("y = Conv<strides=[2,2]>(x, w)", {"w": (4, 3, 2, 2)}, 2 * 4 * 4 * 4 * 3 * 2 * 2),
        ("y = Conv<group=3>(x, w)", {"w": (6, 1, 1, 1)}, 2 * 6 * 8 * 8),
        ("y = ConvTranspose<strides=[2,2]>(x, w)", {"w": (3, 4, 2, 2)}, 2 * 3 * 8 * 8 * 4 * 2 * 2),
        ("y = MatMul(x, w)", {"w": (8, 5)}, 2 * 3 * 8 * 5 * 8),
        ("f = Flatten(x) y = Gemm<transB=1>(f, w)", {"w": (7, 192)}, 2 * 7 * 192),
        ('y = Einsum<equation="...ij,jk->...ik">(x, w)', {"w": (8, 5)}, 2 * 3 * 8 * 8 * 5),
    ],
)
def test_multiply_accumulates(body, weights, expected):
    x = np.ones((2, 3, 8, 8), np.float32)
    found = left(made(body, **weights), {"x": x})
    assert found["macs"] == expected
    assert found["share_macs_float32"] == 1


def test_half_operators_are_not_counted_as_float32():
    body = (
        "h = Cast<to=10>(x) u = Cast<to=10>(w) m = MatMul(h, u) f = Cast<to=1>(m) y = MatMul(f, w)"
    )
    found = left(made(body, w=(8, 8)), {"x": np.ones((2, 3, 8, 8), np.float32)})
    assert found["share_macs_float32"] == 0.5
    assert found["casts_inside"] == 2

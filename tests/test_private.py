"""The private parts of PyTorch and of its ONNX exporter that are used: each does what is relied on.

A failure here after an upgrade says which part of frontends/*/private.py has to change.
"""

import ast
import sys
import traceback
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, fx, nn

import halfsafe
from halfsafe.frontends.onnx import private as onnx_private
from halfsafe.frontends.torch import private
from tests.replicas import Net

aten = torch.ops.aten
X = torch.linspace(-1, 1, 32).reshape(4, 8)


# Structures


class Pair(NamedTuple):
    left: Any
    right: Any


NESTED = {"b": [1, (2, None)], "a": Pair(3, {"c": "x"})}
FLAT = [1, 2, None, 3, "x"]
"""In the order of keys as they were put in; None is a leaf."""


def test_tree_leaves_and_tree_flatten_and_tree_unflatten():
    flat, spec = private.tree_flatten(NESTED)
    assert flat == FLAT == private.tree_leaves(NESTED)
    assert private.tree_unflatten(flat, spec) == NESTED
    assert spec == private.tree_flatten({"b": [0, (0, 0)], "a": Pair(0, {"c": 0})})[1]
    assert spec != private.tree_flatten({"b": [0, (0, 0)], "a": (0, {"c": 0})})[1]


def test_a_TreeSpec_has_children_and_a_context():
    _, spec = private.tree_flatten(((1, 2), {"mask": 3, "x": 4}))
    assert isinstance(spec, private.TreeSpec)
    assert spec.num_leaves == 4
    assert spec.child(0).num_children == 2
    assert list(spec.child(1).context) == ["mask", "x"]


def test_tree_leaves_with_path_and_keystr():
    found = [private.keystr(path) for path, _ in private.tree_leaves_with_path(NESTED)]
    assert found[:3] == ["['b'][0]", "['b'][1][0]", "['b'][1][1]"]
    assert private.keystr(private.tree_leaves_with_path((1, [2]))[1][0][1:]) == "[0]"


def test_tree_map_and_tree_map_only():
    assert private.tree_map(str, [1, {"a": 2}]) == ["1", {"a": "2"}]
    assert private.tree_map_only(int, str, [1, {"a": 2.5}]) == ["1", {"a": 2.5}]


@dataclass
class Box:
    """A container that only the next test registers."""

    held: list[Any]


def test_register_container():
    private.register_container(
        Box,
        lambda box: (box.held, len(box.held)),
        lambda held, _: Box(list(held)),
        lambda count: [f"part{i}" for i in range(count)],
    )
    assert private.tree_map(lambda x: 2 * x, {"a": Box([1, 2])}) == {"a": Box([2, 4])}
    ((path, _),) = private.tree_leaves_with_path((Box([5]),))
    assert private.keystr(path) == "[0].part0"


@dataclass
class Boxes:
    boxes: Tensor
    score: Any = None


def test_registered():
    with private.registered({Boxes: None}):
        assert private.tree_leaves([Boxes(X, 1)])[1] == 1
        assert private.tree_leaves(Boxes(X)) == [X]
        exported = torch.export.export(Net(lambda m, x: Boxes(x + 1)).eval(), (X,))
        assert type(exported.module()(X)) is Boxes
    assert type(private.tree_leaves(Boxes(X))[0]) is Boxes


def test_registered_leaves_what_someone_else_has_registered_meanwhile():
    @dataclass
    class Late:
        x: Any

    with warnings.catch_warnings(), private.registered({Late: None}):
        warnings.simplefilter("ignore")  # it says that it was registered already
        torch.export.register_dataclass(Late, serialized_type_name="tests.Late")
    assert private.tree_leaves(Late(1)) == [1]


def test_unwarned_tracing():
    def sized(x):
        with private.unwarned_tracing():
            return x + 1 if x.shape[0] == 2 else x

    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        assert torch.jit.trace(sized, torch.ones(2))(torch.ones(2)).tolist() == [2.0, 2.0]


# Operators


def test_OpOverload_and_HigherOrderOperator():
    assert isinstance(aten.relu.default, private.OpOverload)
    assert not isinstance(aten.relu, private.OpOverload)
    assert isinstance(torch.ops.higher_order.cond, private.HigherOrderOperator)
    assert not isinstance(torch.ops.higher_order.cond, private.OpOverload)


def test_arguments_of():
    found = private.arguments_of(aten.add.Tensor)
    assert [a.name for a in found] == ["self", "other", "alpha"]
    assert [str(a.type) for a in found] == ["Tensor", "Tensor", "number"]
    assert found[2].default_value == 1
    assert private.arguments_of(len) == ()


def test_returns_of():
    (view,) = private.returns_of(aten.view.default)
    assert view.alias_info is not None and not view.alias_info.is_write
    (made,) = private.returns_of(aten.relu.default)
    assert made.alias_info is None
    assert len(private.returns_of(aten.native_layer_norm.default)) == 3


def test_writes():
    assert private.writes(aten.add_.Tensor)
    assert not private.writes(aten.add.Tensor)


def test_name_of():
    assert private.name_of(aten.add.Tensor) == "add"


def test_is_composite():
    assert private.is_composite(aten.einsum.default)
    assert not private.is_composite(aten.mm.default)


def test_TO_COPY():
    assert private.TO_COPY(X, dtype=torch.float16).dtype == torch.float16


def operators_of(model: nn.Module) -> set[Any]:
    """What a model in bfloat16 becomes when it is exported and decomposed."""
    exported = torch.export.export(model.eval().bfloat16(), (X.bfloat16(),)).run_decompositions()
    return {node.target for node in exported.graph.nodes}


def test_TO_COPY_and_ASSERT_TENSOR_METADATA_are_what_casts_become():
    found = operators_of(Net(lambda m, x: x.float() + 1))
    assert found >= {private.TO_COPY, private.ASSERT_TENSOR_METADATA}


def test_DECOMPOSED_BATCH_NORM_is_what_a_batch_norm_becomes():
    assert private.DECOMPOSED_BATCH_NORM in operators_of(nn.BatchNorm1d(8))


def test_TorchDispatchMode():
    seen: list[Any] = []

    class Seeing(private.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Seeing():
        X.relu()
        run_aside(X.sigmoid)
    assert seen == [aten.relu.default]


# Tensors and modules


def test_version_of():
    x = X.clone()
    before = private.version_of(x)
    x.add_(1)
    assert private.version_of(x) == before + 1


def test_types_only():
    module = nn.Linear(8, 2)
    with private.types_only() as mode:
        made = module(mode.from_tensor(X))
    assert (made.shape, made.dtype) == ((4, 2), torch.float32)
    with private.types_only() as mode, pytest.raises(RuntimeError):
        module(mode.from_tensor(X[:, :5]))


def test_with_tensors():
    module = nn.BatchNorm1d(8)
    made = private.with_tensors(module, lambda x: x.half() if x.is_floating_point() else x)
    assert made is module
    assert module.weight.dtype == module.running_mean.dtype == torch.float16
    assert isinstance(module.weight, nn.Parameter)


def test_BatchNorm():
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    assert all(issubclass(kind, private.BatchNorm) for kind in kinds)
    assert not issubclass(nn.LayerNorm, private.BatchNorm)


def test_convolve():
    conv = nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect")
    x = torch.rand(1, 1, 5, 5)
    assert torch.equal(private.convolve(conv, x, conv.weight, conv.bias), conv(x))


def test_output_padding():
    conv = nn.ConvTranspose2d(1, 1, 3, stride=2)
    assert list(private.output_padding(conv, torch.rand(1, 1, 4, 4), [10, 9])) == [1, 0]
    assert list(private.output_padding(conv, torch.rand(1, 1, 4, 4), None)) == [0, 0]


def test_PARTS_OF_FORWARD():
    assert all(hasattr(nn.ConvTranspose2d, name) for name in private.PARTS_OF_FORWARD)
    for name in private.PARTS_OF_FORWARD:
        kind = nn.ConvTranspose2d if name == "_output_padding" else nn.Conv2d
        assert name in kind.forward.__code__.co_names


def test_check_dimensions():
    private.check_dimensions(nn.BatchNorm2d(3), torch.rand(1, 3, 2, 2))
    with pytest.raises(ValueError, match="4D"):
        private.check_dimensions(nn.BatchNorm2d(3), torch.rand(1, 3))


# Graphs


def test_taking():
    graph = fx.Graph()
    first, second = graph.placeholder("first"), graph.placeholder("second")
    graph.output((graph.call_function(aten.add.Tensor, (first, second)),))
    _, given = private.tree_flatten(((0,), {"other": 0}))
    _, made = private.tree_flatten({"sum": 0})
    graph.set_codegen(private.taking(["x", "other"], given, made))
    module = fx.GraphModule(nn.Module(), graph)
    assert torch.equal(module(X, other=X)["sum"], 2 * X)


class Outside(nn.Module):
    """Computes in a function that forward() calls."""

    def forward(self, x: Tensor) -> Tensor:
        return beyond(x)


def beyond(x: Tensor) -> Tensor:
    return x + 1


def test_any_size():
    """A batch of 1 stays a free axis; elsewhere PyTorch takes the 1 for a constant."""
    batch = {0: torch.export.Dim.AUTO}
    with private.any_size():
        exported = torch.export.export(Outside(), (X[:1],), dynamic_shapes=(batch,))
    assert exported.module()(X).shape == X.shape


def test_remembering():
    def traced() -> str:
        graph = torch.export.export(Outside(), (X,), strict=False).graph
        return next(n.stack_trace for n in graph.nodes if n.op == "call_function")

    def kept(frames: traceback.StackSummary) -> traceback.StackSummary:
        return traceback.StackSummary.from_list([f for f in frames if f.name == "beyond"])

    plain = traced()
    with private.remembering(kept):
        (line,) = [line for line in traced().splitlines() if "File" in line]
        assert line.endswith("in beyond")
        assert run_aside(traced) == plain
    assert traced() == plain


def test_without_graphs_on_stderr(capsys):
    def failing(x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x

    def export() -> str:
        with pytest.raises(Exception, match="data-dependent"):
            torch.export.export(Net(lambda m, x: failing(x)).eval(), (X,), strict=False)
        return capsys.readouterr().err

    assert "aten.sum.default" in export()
    with private.without_graphs_on_stderr():
        assert export() == ""
        assert "aten.sum.default" in run_aside(export)
        print("mine", file=sys.stderr)
    assert "mine" in capsys.readouterr().err


def test_seen_as_constant():
    """In strict mode PyTorch follows every call, and cannot follow this one."""

    def asked() -> int:
        return len(sys._current_frames()) and 3

    private.seen_as_constant(asked)
    exported = torch.export.export(Net(lambda m, x: x * asked()).eval(), (X,), strict=True)
    assert torch.equal(exported.module()(X), 3 * X)


# The exporter to ONNX


def test_NAME_SCOPES_and_STACK_TRACE_are_what_the_exporter_writes():
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 8)), nn.ReLU()).eval()
    program = torch.onnx.export(model, (X,), dynamo=True, verbose=False)
    nodes = {node.op_type: node for node in program.model.graph}
    assert onnx_private.module_path(nodes["Relu"]) == "1"
    assert onnx_private.module_path(nodes["Gemm"]) == "0.0"
    assert "File" in onnx_private.stack_trace(nodes["Relu"])
    keys = {onnx_private.NAME_SCOPES, onnx_private.STACK_TRACE}
    assert keys <= nodes["Relu"].metadata_props.keys()


@pytest.mark.parametrize("scopes", ["", "[", "['own']", "{}", "3"])
def test_module_path_where_nothing_of_use_is_written(scopes):
    node = ir.Node("", "Relu", [])
    node.metadata_props[onnx_private.NAME_SCOPES] = scopes
    assert onnx_private.module_path(node) == ""
    assert onnx_private.stack_trace(node) == ""


# Nothing else is used

SOURCE = Path(halfsafe.__file__).parent
PRIVATE = sorted(SOURCE.rglob("private.py"))
OTHERS = sorted(set(SOURCE.rglob("*.py")) - set(PRIVATE))


def is_private(name: Any) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__")


def own_names(tree: ast.AST) -> set[str]:
    """What a file itself defines, on its objects too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                found.add(name)
    return found


def foreign(tree: ast.AST) -> Iterator[str]:
    """Private names in a file that are not its own, and the exporter's keys."""
    own = own_names(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found = [part for alias in names for part in alias.name.split(".")]
            case ast.ImportFrom(module=str(module), names=names):
                found = [*module.split("."), *(alias.name for alias in names)]
            case ast.Attribute(attr=name):
                found = [name] if name not in own else []
            case ast.Call(func=ast.Name(id="getattr" | "setattr" | "hasattr"), args=args):
                found = [a.value for a in args if isinstance(a, ast.Constant)]
            case ast.Subscript(slice=ast.Constant(value=name)):
                found = [name]
            case ast.Constant(value=str(text)) if text.startswith("pkg.torch"):
                yield text
                continue
            case _:
                continue
        yield from (name for name in found if is_private(name) and name != "_fields")


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_other_file_touches_what_is_private(path):
    assert not set(foreign(ast.parse(path.read_text())))


def test_what_is_private_is_seen():
    torch_private, onnx_keys = ast.parse(PRIVATE[1].read_text()), ast.parse(PRIVATE[0].read_text())
    assert {"_pytree", "_PyTreeCodeGen", "_schema", "_version", "_apply"} <= {
        *foreign(torch_private)
    }
    assert "_dynamo_marked_constant" in foreign(torch_private)
    assert "pkg.torch.onnx.name_scopes" in foreign(onnx_keys)


@pytest.mark.parametrize("module", [private, onnx_private], ids=lambda module: module.__name__)
def test_every_part_has_a_test_and_a_line_that_says_what_it_is_for(module):
    tree = ast.parse(Path(module.__file__).read_text())
    here = Path(__file__).read_text()
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        match node:
            case ast.FunctionDef(name=name):
                said = ast.get_docstring(node)
            case ast.Assign(targets=[ast.Name(id=name)]):
                said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            case _:
                continue
        assert said or is_private(name), name
        assert f"private.{name}" in here or is_private(name), name


def run_aside(function: Any) -> Any:
    """What another thread gives."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(partial(function)).result()

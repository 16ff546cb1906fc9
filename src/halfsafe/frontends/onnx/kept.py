"""What a model in FP16 holds in FP32 because it has to, and in FP64 because it did before."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from halfsafe.frontends.onnx.half_groups import BY_SIZE, Group, groups_of, sizes_of
from halfsafe.frontends.onnx.values import (
    HALF,
    called,
    is_cast,
    is_constant,
    value_at,
)


def kept(model: ir.Model) -> dict[str, dict[ir.Node, list[Group]]]:
    """Operators that take or give FP32 since they have to, with what is FP32, by the reason.

    An FP32 constant alone is no reason to tell of an operator: it is stored so, and costs nothing.
    """
    found: dict[str, dict[ir.Node, list[Group]]] = defaultdict(lambda: defaultdict(list))
    sizes = sizes_of(model.graph.all_nodes())
    for node in model.graph.all_nodes():
        for group in groups_of(node, model.opset_imports):
            why = group.why or (BY_SIZE if _are_sizes(node, group, sizes) else "")
            computed = group.values or not all(is_constant(value_at(use)) for use in group.uses)
            if why and computed:
                found[why][node].append(group)
    return found


def _are_sizes(node: ir.Node, group: Group, sizes: set[ir.Value]) -> bool:
    """Whether an operator computes sizes in FP32; a Cast of whole numbers computes nothing."""
    return not is_cast(node) and bool(group.values) and sizes.issuperset(group.values)


def kept_words(model: ir.Model) -> list[str]:
    """Notes on a model in FP16: a line for each reason why something in it has to be FP32, and one
    for what the model itself computes in FP64."""
    found = [_words(why, nodes) for why, nodes in kept(model).items()]
    if wide := doubles(model):
        found.append(
            f"the model itself computes in FP64, and so does the FP16 file: {_kinds(wide)}, the "
            f"first of them {called(wide[0])}"
        )
    return found


def doubles(model: ir.Model) -> list[ir.Node]:
    """Operators that compute in FP64; those that only cast to it or from it do not count."""
    return [
        node
        for node in model.graph.all_nodes()
        if not is_cast(node) and any(value.dtype is ir.DataType.DOUBLE for value in node.outputs)
    ]


def _words(why: str, nodes: dict[ir.Node, list[Group]]) -> str:
    casts = {cast for groups in nodes.values() for group in groups for cast in _casts(group)}
    return (
        f"the FP16 file has operators that take or give FP32, since {why}: {_kinds(nodes)}, the "
        f"first of them {called(next(iter(nodes)))}; Casts between them and FP16: {len(casts)}"
    )


def _kinds(nodes: Iterable[ir.Node]) -> str:
    count = Counter(node.op_type for node in nodes)
    return ", ".join(f"{n} {op}" for op, n in sorted(count.items()))


def _casts(group: Group) -> Iterator[ir.Node]:
    """The Casts from FP16 into a group, and from it to FP16."""
    for use in group.uses:
        maker = value_at(use).producer()
        if maker is not None and is_cast(maker) and value_at((maker, 0)).dtype is HALF:
            yield maker
    for value in group.values:
        for node, _ in value.uses():
            if is_cast(node) and node.outputs[0].dtype is HALF:
                yield node

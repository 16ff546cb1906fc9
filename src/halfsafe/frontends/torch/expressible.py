"""What of a captured network lies in the checkpoint of its class, where a plan may change it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from math import isfinite

from halfsafe.frontends.torch.folded import attribute
from halfsafe.frontends.torch.model import Opened
from halfsafe.frontends.torch.program import Program
from halfsafe.graph import Kind, Node, Use
from halfsafe.restriction import Restriction
from halfsafe.rules import Unknown
from halfsafe.windows import floor_operand


def restriction(
    opened: Opened,
    program: Program,
    held: Collection[str],
    setting: Callable[[str], str | None],
) -> Restriction:
    """What a plan has to keep to, so that the class can hold it.

    `held` are the tensors that a checkpoint holds, by their names in the class. `setting` gives
    what of a configuration an attribute of a module comes from, None for one that comes from
    nowhere.
    """
    groups: dict[object, list[Unknown]] = {}
    pinned: dict[Unknown, str] = {}
    for use, value in _constants(program):
        source = program.constants.sources[value]
        if any(opened.tensors.get(name) is source for name in held):
            groups.setdefault(id(source), []).append(use)
        else:
            pinned[use] = f"'{value}', which the class makes and no checkpoint holds"
    for node, use, number in _numbers(program):
        name = attribute(opened.module, node.module, use.operand, number)
        path = None if name is None else setting(name)
        if path is not None:
            groups.setdefault(path, []).append(use)
        elif name is not None:
            pinned[use] = f"{name} = {number:g}, which no setting of the configuration gives"
        else:
            pinned[use] = f"the {number:g} of {node}, which is written into the code"
    return Restriction(tuple(tuple(group) for group in groups.values()), pinned)


def keeping_epsilons(found: Restriction, program: Program, *, every: bool) -> Restriction:
    """The same, with epsilons left as they are, as if they were 0: those that no setting gives, or
    `every` one.

    That is another function where an epsilon can be seen, and the same where it cannot: whoever
    asks for it has to look.
    """
    kept = {use for node, use, _ in _numbers(program) if _is_epsilon(program, node, use)}
    if not every:
        kept &= found.pinned.keys()
    pinned = {unknown: why for unknown, why in found.pinned.items() if unknown not in kept}
    together = tuple(tuple(u for u in group if u not in kept) for group in found.together)
    return Restriction(together, pinned, frozenset(kept))


def _is_epsilon(program: Program, node: Node, use: Use) -> bool:
    return use.operand in ("eps", floor_operand(program.graph, node))


def _constants(program: Program) -> Iterator[tuple[Use, str]]:
    """Where floating constants are read, and which."""
    graph = program.graph
    for name, value in graph.values.items():
        if value.kind is Kind.CONSTANT and value.floating:
            yield from ((use, name) for use in graph.consumers[name])


def _numbers(program: Program) -> Iterator[tuple[Node, Use, float]]:
    """Numbers that an exponent would change, and where they are read."""
    graph = program.graph
    for node in graph.nodes:
        for operand, value in node.inputs.items():
            number = graph.values[value].number
            if number and isfinite(number) and graph.values[value].floating:
                yield node, Use(node.name, operand), number

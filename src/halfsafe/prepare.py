"""From measured ranges to a plan: which forms, which islands, which exponents.

Three kinds of remedy go beyond exponents, each tried for what the plan leaves: masks and floors
that FP16 does not hold are replaced, a pinned operator is put into its gate form, and what nothing
else saves is an *island* in FP32. An island begins as the operators around a value that no exponent
saves, and grows while what leaves it does not fit either: it ends where the span has closed again.

Each round adds a form or a node, of which there is a finite number, and there is a bound on rounds:
this ends.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import reduce

from halfsafe import remedies, replacements
from halfsafe.edits import Edit, Island, Lower, Replace, SetNumber
from halfsafe.errors import BadInput, EditError
from halfsafe.faults import Fault, find_faults
from halfsafe.graph import Graph, Use
from halfsafe.plan import Conflict, Plan, plan
from halfsafe.ranges import Range, merge
from halfsafe.references import References
from halfsafe.restriction import Restriction
from halfsafe.rewrite import rewrite
from halfsafe.rules import Unknown
from halfsafe.samples import Call, Samples
from halfsafe.sharing import ALONE, Group, shared
from halfsafe.source import Progress, Source
from halfsafe.windows import Limits, Windows, windows

AS_ASKED = "kept in FP32 as asked"

EXCLUDED = "left as it is, as asked"

ROUNDS = 64
"""How often islands grow for one plan, at most."""


@dataclass(frozen=True)
class Prepared:
    """A source that can be planned, the plan, and all that has to be done for it.

    Forms keep the function but not its bits; they are made batch by batch, since one may name a
    node that another has made, and islands after them. Islands and `edits` change no bit in FP32,
    and `replacements` change what FP16 cannot hold: they go into the FP16 deployable only.
    """

    source: Source
    ranges: dict[str, Range]
    faults: tuple[Fault, ...]
    plan: Plan
    masks: tuple[Replace, ...]
    batches: tuple[tuple[Lower, ...], ...]
    islands: tuple[Island, ...]
    edits: tuple[Edit, ...]
    replacements: tuple[Edit, ...]
    notes: tuple[str, ...] = ()
    restriction: Restriction | None = None

    def without_kept(self) -> Prepared:
        """With numbers left as they are that the restriction keeps."""
        kept = frozenset[Use]() if self.restriction is None else self.restriction.kept
        left = (e for e in self.edits if not (isinstance(e, SetNumber) and e.use in kept))
        return replace(self, edits=tuple(left))

    def exact(self, original: Source) -> Source:
        """The rescaled model, of the same function in FP32."""
        return reduce(_apply, (*self.batches, self.islands, self.edits), original)

    def deployed(self, original: Source) -> Source:
        """The same with what FP16 cannot hold replaced."""
        return self.replaced(self.exact(original))

    def replaced(self, exact: Source) -> Source:
        """The rescaled model with what FP16 cannot hold replaced; itself where there is nothing."""
        return _apply(exact, self.replacements)

    @property
    def forms(self) -> tuple[Lower, ...]:
        """Operators that are computed in another form."""
        return tuple(form for batch in self.batches for form in batch)

    @property
    def island(self) -> frozenset[str]:
        """The operators that are computed in FP32."""
        return frozenset(name for island in self.islands for name in island.nodes)


def _apply(source: Source, edits: Sequence[Edit]) -> Source:
    return source.apply(edits) if edits else source


class Preparation:
    """What is known of one model while its plan is made, and made again with other islands."""

    def __init__(
        self,
        references: References,
        supply: Samples,
        limits: Limits,
        progress: Progress,
        group: Group = ALONE,
        restrictions: Sequence[Restriction] = (),
        keep_fp32: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> None:
        """Under `restrictions`, one less strict than the other, nothing but constants changes.

        Operators that `keep_fp32` names, by patterns of node, operator or module, are in FP32 in
        every plan; those that `exclude` names read and give what they do in the original. Raises
        BadInput for a pattern that names none.
        """
        original = references.original
        self.restrictions = tuple(restrictions)
        self._kept = named(original.graph, keep_fp32)
        self._excluded = frozenset(named(original.graph, exclude))
        self.original, self.supply, self.limits = original, supply, limits
        self.progress = progress
        self._all = False
        self.group = group
        measured = shared(
            group,
            supply.measured(),
            lambda own: original.measure(
                own, progress, formats=references.lanes, shown=references.keep
            ),
        )
        ranges = merge(*measured) | original.constants()
        masks = replacements.sentinels(original.graph, ranges)
        self.masks = [mask for mask in masks if mask.use.node not in self._excluded]
        faults = find_faults(original.graph, ranges, replace(limits, inside={}))
        self.faults = tuple(faults)
        self._lowered = original
        if self.masks:
            self._lowered = original.apply(self.masks)
            ranges |= replacements.masked(self._lowered.graph, self.masks, ranges)
        self._batches: list[tuple[Lower, ...]] = []
        self._refused: list[Lower] = []
        self._ranges = ranges

    def prepared(
        self, island: Iterable[str] = (), why: str = "", *, eager: bool = False
    ) -> Prepared:
        """The plan with at least these operators in FP32, and more where it needs more.

        `why` says what they are kept in FP32 for. A model that fits as it is gets an empty plan,
        unless one is wanted, `eager`ly, that also mends what is merely imprecise.
        """
        if self.restrictions:
            return self._restricted(eager)
        nodes = dict.fromkeys([*self._kept, *island])
        reasons, notes = [AS_ASKED] * bool(self._kept) + [why] * bool(why), list[str]()
        while True:
            islands = self._islands(nodes, reasons)
            source = _apply(self._lowered, islands)
            ranges = self._known(source)
            self.progress("planning")
            bounds = windows(source.graph, ranges, self.limits)
            restriction = self._restricting(source.graph)
            found = plan(source.graph, bounds, eager=eager, restriction=restriction)
            unmet = found.conflicts or self._unmet(found, bounds)
            if unmet and self._lower(remedies.gate_forms(source.graph, bounds, self.limits), nodes):
                continue
            if not found.conflicts:
                break
            more = around(source.graph, self._lowered.graph, found.conflicts)
            new = [name for name in more if name not in nodes]
            if not new:
                break
            if len(reasons) >= 2 * ROUNDS:
                notes.append(f"islands stopped growing after {ROUNDS} rounds")
                break
            reasons += [remedies.describe(source.graph, c) for c in found.conflicts[:2]]
            nodes.update(dict.fromkeys(new))
        floors = replacements.floors(source.graph, found.exponents, ranges)
        floors = [floor for floor in floors if floor.use.node not in self._excluded]
        return self._found(source, ranges, found, islands, floors, notes)

    def _unmet(self, found: Plan, windows: Windows) -> bool:
        """Whether a value fits on these samples, and its bound does not."""
        known = (name for name in self.limits.bounds if name in windows)
        return any(found.exponents.get(name, 0) < windows[name].low for name in known)

    def _restricted(self, eager: bool) -> Prepared:
        """The plan under the first restriction that leaves no conflict, or else under the first.

        A floor that FP16 does not hold is written into the code of the class, and stays.
        """
        source = self._lowered
        ranges = self._known(source)
        bounds, pins = windows(source.graph, ranges, self.limits), self._pins(source.graph)
        plans: list[tuple[Plan, Restriction]] = []
        for restriction in (r.pinning(pins) for r in self.restrictions):
            self.progress("planning")
            found = plan(source.graph, bounds, eager=eager, restriction=restriction)
            plans.append((found, restriction))
            if not found.conflicts:
                break
        found, kept_to = plans[0] if plans[-1][0].conflicts else plans[-1]
        prepared = self._found(source, ranges, found, (), (), ())
        return replace(prepared, restriction=kept_to).without_kept()

    def unchanged(self) -> Prepared:
        """Nothing changed at all, whatever the windows say."""
        source = self._lowered
        ranges = self._known(source)
        return self._found(source, ranges, plan(source.graph, {}), (), (), ())

    def _found(
        self,
        source: Source,
        ranges: dict[str, Range],
        found: Plan,
        islands: Sequence[Island],
        floors: Sequence[Edit],
        notes: Sequence[str],
    ) -> Prepared:
        edits = rewrite(source.graph, found, ranges, self.limits)
        return Prepared(
            source=source,
            ranges=ranges,
            faults=self.faults,
            plan=found,
            masks=tuple(self.masks),
            batches=tuple(self._batches),
            islands=tuple(islands),
            edits=tuple(replacements.unmasked(edits, self.masks)),
            replacements=(*replacements.stored_masks(self.masks, found.uses), *floors),
            notes=(*found.notes, *notes),
        )

    def _restricting(self, graph: Graph) -> Restriction | None:
        """What operators that are left as they are ask of a plan; None where there are none."""
        pins = self._pins(graph)
        return Restriction(pinned=pins, inserts=True) if pins else None

    def _pins(self, graph: Graph) -> dict[Unknown, str]:
        """What excluded operators read and give, with the words for it."""
        found: dict[Unknown, str] = {}
        for node in graph.nodes if self._excluded else ():
            if node.name in self._excluded:
                why = f"{node}, {EXCLUDED},"
                read = (Use(node.name, operand) for operand in node.inputs)
                found |= dict.fromkeys((*read, *node.outputs), why)
        return found

    @property
    def unmeasured(self) -> int:
        """How many samples were kept out of measuring."""
        return 0 if self._all else self.supply.unmeasured

    def measure_all(self) -> None:
        """Takes the ranges of the samples that were kept out of measuring, too."""
        kept_out = self.supply.kept_out() if self.unmeasured else ()
        found = merge(self._ranges, self._measured(kept_out))
        self._ranges = found | replacements.masked(self._lowered.graph, self.masks, found)
        self._all = True

    @property
    def graph(self) -> Graph:
        """The graph in its present forms, whose nodes an island may name."""
        return self._lowered.graph

    def _islands(self, nodes: Collection[str], reasons: Sequence[str]) -> list[Island]:
        """One edit for all of them, in the graph's order, so that neighbours share no Cast."""
        in_order = tuple(node.name for node in self.graph.nodes if node.name in nodes)
        why = "; ".join(dict.fromkeys(reasons[:2]))
        return [Island(in_order, why)] if in_order else []

    def _lower(self, gates: Iterable[Lower], island: Collection[str]) -> bool:
        """Puts operators into gate forms, each once at most; whether there were any that could."""
        tried = {*self._refused, *(form for batch in self._batches for form in batch)}
        left = self._excluded.union(island)
        new = [g for g in gates if g not in tried and g.node not in left]
        new = [g for g in new if g.node in self.graph.by_name]
        made = self._try(new) or sum(self._try([gate]) for gate in new) > 0
        if made:
            self._measure_new()
        return made

    def _try(self, gates: Sequence[Lower]) -> bool:
        """Makes a batch of forms; those that cannot be made leave their conflicts to an island."""
        if not gates:
            return False
        try:
            self._lowered = self._lowered.apply(gates)
        except EditError:
            self._refused += gates
            return False
        self._batches.append(tuple(gates))
        self._refused = [gate for gate in self._refused if gate not in gates]
        return True

    def _measure_new(self) -> None:
        """Measures what forms have added: all else is as it was, but for rounding."""
        calls = self.supply if self._all else self.supply.measured()
        graph, held = self._lowered.graph, self._lowered.constants()
        new = graph.values.keys() - self._ranges.keys() - held.keys()
        self._ranges |= self._measured(calls, new) | held

    def _measured(
        self, calls: Iterable[Call], only: Container[str] | None = None
    ) -> dict[str, Range]:
        """Ranges in the present forms, each process having measured its part."""
        lowered, progress = self._lowered, self.progress
        return merge(*shared(self.group, calls, lambda own: lowered.measure(own, progress, only)))

    def _known(self, source: Source) -> dict[str, Range]:
        """Ranges of all values: a Cast at the rim of an island has that of what it reads."""
        graph, ranges = source.graph, dict(self._ranges)
        for node in graph.nodes:
            for output in node.outputs:
                source_of = next(iter(node.inputs.values()), "")
                if output not in ranges and len(node.outputs) == 1 and source_of in ranges:
                    ranges[output] = ranges[source_of]
        return ranges | source.constants()


def named(graph: Graph, patterns: Sequence[str]) -> list[str]:
    """The operators that store anything in FP16 and that patterns name: by node, operator or
    module, as a shell matches files. Raises BadInput for a pattern that names none."""
    found: dict[str, None] = {}
    for pattern in patterns:
        new = [
            node.name
            for node in graph.nodes
            if any(fnmatchcase(name, pattern) for name in (node.name, node.op, node.module))
            and touches_half(graph, node.name)
        ]
        if not new:
            raise BadInput(
                f"'{pattern}' names no operator, by node, operator or module: the first is "
                f"{graph.nodes[0] if graph.nodes else 'none'}, and * stands for anything"
            )
        found |= dict.fromkeys(new)
    return list(found)


def around(graph: Graph, known: Graph, conflicts: Sequence[Conflict]) -> list[str]:
    """The operators at values that no plan saves: who makes them and who reads them.

    `graph` may have Casts that `known`, whose nodes are wanted, has not: they are looked through.
    """
    found: dict[str, None] = {}
    for conflict in conflicts:
        unknown = conflict.unknown
        if isinstance(unknown, Use):
            found.update(dict.fromkeys(_nodes(graph, known, [unknown.node])))
        elif isinstance(unknown, str):
            makers = [graph.producers[unknown].name] if unknown in graph.producers else []
            readers = [use.node for use in graph.consumers[unknown]]
            found.update(dict.fromkeys(_nodes(graph, known, [*makers, *readers])))
    return [name for name in found if touches_half(known, name)]


def _nodes(graph: Graph, known: Graph, names: Iterable[str]) -> list[str]:
    """These nodes, or in place of one that is not known the known ones behind it."""
    found: list[str] = []
    for name in names:
        if name in known.by_name:
            found.append(name)
        elif name in graph.by_name:
            uses = (u for output in graph.by_name[name].outputs for u in graph.consumers[output])
            found += _nodes(graph, known, [use.node for use in uses])
    return found


def touches_half(graph: Graph, name: str) -> bool:
    """Whether an operator reads or makes anything that FP16 stores."""
    node = graph.by_name[name]
    return any(graph.values[v].bounded for v in (*node.inputs.values(), *node.outputs))

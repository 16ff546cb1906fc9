"""One culprit after the other, until the network uncut is within the tolerance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from halfsafe.bisecting.compared import Seen, agrees, reason, seen
from halfsafe.bisecting.inside import limit
from halfsafe.bisecting.record import Culprit
from halfsafe.bisecting.search import first_bad, trials_for
from halfsafe.bisecting.spread import spread
from halfsafe.bisecting.trials import Bench, Log, OutOfTime, Question
from halfsafe.edits import Island
from halfsafe.engines import Engine
from halfsafe.engines.profile import Profile
from halfsafe.engines.strict import Strict
from halfsafe.errors import EditError
from halfsafe.faults import Fault, FaultKind
from halfsafe.formats import FloatFormat
from halfsafe.graph import Graph, Node
from halfsafe.mending import SHARE, SMALL
from halfsafe.samples import Call
from halfsafe.source import Part, Source

MOST = 16
"""Culprits that are looked for: of more, the network's scale is to blame and no operator."""

SUSPECTS = 16
"""Faults of an inspection that strict evaluation is asked about."""

USUAL = 1e-2
"""The tolerance where none is given."""

GROWS = 2.0
"""Times the error ahead of an operator from which on it is that operator's own."""

PART = 8.0
"""An operator with so small a part of what rounding costs in all is one of many."""

Planner = Callable[[Source], Source]
"""The network as the planner mends it."""


@dataclass
class Hunt:
    """The search on one engine. What was found so far is there at any time."""

    source: Source
    engine: Engine
    question: Question
    log: Log
    faults: Sequence[Fault]
    planner: Planner | None = None
    measures: bool = False
    culprits: list[Culprit] = field(default_factory=list[Culprit])
    notes: list[str] = field(default_factory=list[str])
    error: float = inf
    mended: float = inf
    complete: bool = False
    closed: bool = True
    floor: float = 0.0
    inside: dict[str, float] = field(default_factory=dict[str, float])

    def __post_init__(self) -> None:
        self._base, self._variant = self.source, ""  # the planner's network, once it has mended one

    def run(self) -> None:
        """Finds all culprits, unless time runs out."""
        bench = self.bench(self.source)
        self.log.expected = trials_for(bench.cuts.last) + 2
        try:
            self.error = self.mended = bench.whole().error
            for _ in range(2 * MOST):
                if self.mended <= self.question.tolerance:
                    self._tell_hidden(bench)
                    self._prune()
                    self.complete = True
                    return
                following = self._next(bench) or self._eased()
                if following is None:
                    return
                bench = following
                self.mended = bench.whole().error
            self.notes.append(f"{len(self.culprits)} culprits, and there are more: the scale of "
                              "the network is to blame, no operator by itself")  # fmt: skip
        except OutOfTime:
            self._stop(bench)

    def _eased(self) -> Bench | None:
        """The same with a larger tolerance, once, where rounding alone is beyond this one.

        A last culprit that only rounds is none if others are found. None where nothing is worse
        than rounding, or many operators share in it.
        """
        if self.closed:
            return None
        floor = self._floor(self.source)
        if self.floor or 2 * floor <= self.question.tolerance:
            self.notes.append("many operators share in the error: try halfsafe fix")
            return None
        self.floor = floor
        bits = self._rounds.mantissa_bits + 1
        told = f"{bits} bits at any exponent, the best that there can be, cost {floor:.3g}"
        if self.mended <= 2 * floor:
            self.notes.append(f"{told}: below that, one operator after the other is a culprit")
            self.complete = True
            return None
        self.notes[:] = [f"{told}: the search is for what costs more than twice that"]
        self.question = replace(self.question, tolerance=2 * floor)
        self.closed = True
        self.culprits = [c for c in self.culprits[:-1] if c.after > 2 * floor]
        return self._in_float32(self.culprits)

    @property
    def _rounds(self) -> FloatFormat:
        """What the engine stores in, at any exponent."""
        return self.engine.profile.stores.at_any_exponent

    def _floor(self, network: Part) -> float:
        """The error of rounding alone, the best that there can be."""
        calls = self.question.supply
        return max(self.question.strictly(network, call, self._rounds) for call in calls)

    def _only_rounds(self, bench: Bench, place: int, found: Culprit) -> bool:
        """Whether an operator shares in an error with many: it adds little to what comes ahead of
        it, or, with rounding alone, is a small part of what that costs in all."""
        if found.after == inf or found.before * GROWS >= found.after:
            return found.after < inf
        small = found.after * PART <= self._floor(bench.network)
        return small and self._strict(bench, self._rounds).is_bad(place)

    def bench(self, network: Part, kept: Sequence[str] = ()) -> Bench:
        """A network on the engine, the samples in the order that was the best so far."""
        worst = self.culprits[0].sample if self.culprits else 0
        variant = self._variant
        return Bench(network, self.engine, self.question, self.log, kept, worst, variant=variant)

    def _next(self, bench: Bench) -> Bench | None:
        """Finds a culprit, and mends it; None where that cannot be done."""
        graph = bench.network.graph
        predicted = self._predicted(bench)
        suspects = () if predicted is None else (predicted,)
        place = first_bad(0, bench.cuts.last, bench.is_bad, bench.cuts.cost, suspects)
        node = self._known(graph, bench.cuts.operator(place))
        if node.name in bench.kept:
            if why := bench.at(place).why:
                self.notes.append(f"{self.engine.name} refuses {node} in FP32 as well: {why}")
                return None
            self._widen(bench, node)
        else:
            found = self._culprit(bench, node, place, predicted)
            self.culprits.append(found)
            if self._only_rounds(bench, place, found):
                self.closed = False
                return None
            if self.planner is not None and len(self.culprits) == 1:
                self._base = self.planner(self.source)
                self._variant = self._base.fingerprint()
            else:
                self._keep(bench, [node.name])
        return self._in_float32(self.culprits)

    def _known(self, graph: Graph, name: str) -> Node:
        """An operator of the network as it was given, in place of a Cast that keeping has added."""
        node = graph.by_name[name]
        while node.name not in self._base.graph.by_name and node.inputs:
            maker = graph.producers.get(next(iter(node.inputs.values())))
            if maker is None:
                break
            node = maker
        return node

    def _culprit(self, bench: Bench, node: Node, place: int, predicted: int | None) -> Culprit:
        at = bench.at(place)
        before = bench.at(place - 1).error if place > 1 else 0.0
        call = self._sample(bench.worst)
        found = seen(bench, place, call)
        if predicted != place and agrees(bench, place, found) is False:
            self._measure(bench, node, place, found)
        why = f"the engine refuses: {at.why}" if at.why else self._adds_up(before, at.error)
        why = why or reason(bench, place, found, self.faults)
        self._tell(bench, place, predicted, node)
        return Culprit(
            node=node.name,
            op=node.op,
            module=node.module,
            line=node.line,
            before=before,
            after=at.error,
            sample=at.sample,
            since=node.name,
            reason=why,
            predicted=predicted == place,
            reads=found.of(found.reads),
            makes=found.of(found.makes),
        )

    def _measure(self, bench: Bench, node: Node, place: int, found: Seen) -> None:
        """How loud operands of an operator may be, of which the kernel is to blame."""
        bound = limit(bench, place, found) if self.measures else None
        if bound is not None:
            self.inside[node.op] = min(bound, self.inside.get(node.op, bound))
            self.notes.append(
                f"{self.engine.name} computes {node.op} as FP32 does up to operands of {bound:.4g}"
            )

    def _adds_up(self, before: float, after: float) -> str:
        if before * GROWS < after:
            return ""
        return (
            f"errors add up: they were {before:.3g} ahead of it already, and pass the tolerance "
            "here; no operator by itself is to blame"
        )

    def _tell(self, bench: Bench, place: int, predicted: int | None, node: Node) -> None:
        """Where the engine is not as strict evaluation predicts."""
        engine = self.engine.name
        if predicted is None:
            self.notes.append(
                f"strict evaluation is within the tolerance where {engine} is not, and does not "
                f"tell of {node.name}"
            )
        elif predicted != place:
            expected = bench.cuts.operator(predicted)
            self.notes.append(
                f"strict evaluation has {expected} as the first culprit, {engine} has {node.name}"
            )

    def _tell_hidden(self, bench: Bench) -> None:
        """Where strict evaluation has a culprit, and the engine none."""
        predicted = self._strict(bench, self.engine.profile.stores).whole().error
        if predicted <= max(self.question.tolerance, GROWS * self.mended):
            return
        place = self._predicted(bench)
        if place is not None:
            node = self._known(bench.network.graph, bench.cuts.operator(place))
            self.notes.append(
                f"{self.engine.name} is within the tolerance where strict evaluation is not, from "
                f"{node} on, as one that fuses operators or keeps values wider; another engine, or "
                "version, may not"
            )

    def _predicted(self, bench: Bench) -> int | None:
        """The place at which strict evaluation leaves the tolerance; None where it does not."""
        cuts, low = bench.cuts, 0
        strict = self._strict(bench, self.engine.profile.stores)
        for place in self._suspects(bench)[:SUSPECTS]:
            if strict.is_bad(place):
                return first_bad(low, place, strict.is_bad, cuts.cost, (place,))
            low = place
        if strict.whole().error <= self.question.tolerance:
            return None
        return first_bad(low, cuts.last, strict.is_bad, cuts.cost)

    def _strict(self, bench: Bench, stores: FloatFormat) -> Bench:
        """The same network in strict evaluation, whose trials are not counted."""
        strict, worst = Strict(profile=Profile(stores)), bench.worst
        return Bench(
            bench.network, strict, self.question, self.log, bench.kept, worst, counts=False
        )

    def _suspects(self, bench: Bench) -> list[int]:
        """Places right behind operators at which an inspection has found faults."""
        graph, places = bench.network.graph, set[int]()
        for fault in self.faults:
            maker = self.source.graph.producers.get(fault.value)
            readers = (use.node for use in self.source.graph.consumers.get(fault.value, ()))
            names = readers if maker is None else (maker.name,)
            if fault.kind != FaultKind.LATENT:
                places |= {bench.cuts.place_of[n] + 1 for n in names if n in graph.by_name}
        kept = {bench.cuts.place_of[name] + 1 for name in bench.kept}
        return sorted(places - kept)

    def _in_float32(self, culprits: Sequence[Culprit]) -> Bench | None:
        """The network with culprits in FP32; None where that is no remedy."""
        names = {name for culprit in culprits for name in culprit.kept}
        nodes = self._base.graph.nodes
        kept = tuple(node.name for node in nodes if node.name in names)
        self.closed &= len(kept) <= max(SMALL, SHARE * len(nodes))
        if not self.closed:
            return None
        if not kept:
            return self.bench(self._base)
        try:
            network = self._base.apply([Island(kept, "culprits of a bisection")])
        except EditError as error:
            self.notes.append(f"the last culprit cannot be kept in FP32: {error}")
            return None
        return self.bench(network, kept)

    def _widen(self, bench: Bench, node: Node) -> None:
        """What a kept operator hands on does not fit: those who read it are kept as well."""
        graph = self._base.graph
        self._keep(bench, {u.node for output in node.outputs for u in graph.consumers[output]})

    def _keep(self, bench: Bench, nodes: Iterable[str]) -> None:
        """Keeps operators in FP32, and what their harm reaches, on account of the last culprit."""
        *_, last = self.culprits
        names, self.closed = spread(bench, nodes, self._sample(bench.worst))
        own = [name for name in names if name in self._base.graph.by_name]
        kept = (*last.kept, *own) if self.closed else last.kept
        self.culprits[-1] = replace(last, kept=tuple(dict.fromkeys(kept)))

    def _prune(self) -> None:
        """Drops culprits that only a cut shows: uncut, the network is good without them in FP32."""
        several = [culprit for culprit in self.culprits if culprit.kept]
        for culprit in several if len(several) > 1 and self.planner is None else ():
            rest = [other for other in self.culprits if other is not culprit]
            bench = self._in_float32(rest) if rest else None
            error = inf if bench is None else bench.whole().error
            if error <= self.question.tolerance:
                self.culprits, self.mended = rest, error
                self.notes.append(
                    f"{culprit.node} spoils the outputs only where the network is cut behind it: "
                    f"uncut, {self.engine.name} is within the tolerance without it in FP32"
                )

    def _stop(self, bench: Bench) -> None:
        """Tells what is known when time is over: the interval that is left."""
        spent = f"stopped after {self.log.seconds:.0f} s"
        if not bench.ran:
            self.notes.append(f"{spent}, before the network with all that was found ran once more")
            return
        if self.mended <= self.question.tolerance:
            self.notes.append(f"{spent}, within the tolerance, before all was compared")
            return
        low, high = bench.interval
        first, last = bench.cuts.operator(low + 1), bench.cuts.operator(high)
        since, node = (self._known(bench.network.graph, name) for name in (first, last))
        self.notes.append(
            f"{spent}: the culprit is one of the operators {since.name} to {node.name}"
        )
        place = node.name, node.op, node.module, node.line
        before, after = bench.error_at(low), bench.error_at(high)
        why = "time ran out"
        self.culprits.append(Culprit(*place, before, after, bench.worst, since.name, why))

    def _sample(self, number: int) -> Call:
        return next(call for call in self.question.supply if call.number == number)

"""Islands by meaning: where the proof fails, the operators that need more than FP16 go to FP32.

Ranges show what does not fit. They do not show what does not suffice: a series at a level of 1e5
less its mean, the sine of a large angle, a row number in a float, the exponential of a cumulative
sum times that of its opposite. There every value fits, and the result is wrong. Two things can be
seen when the fixed network runs in FP32, in FP16 and at the floor side by side:

- An operator *amplifies*: its operands are right to 11 bits and its result is not. Then these have
  to be kept in FP32, and what they are computed from, backwards until the result is right: the
  least depth that is enough. What is behind it is stored in FP16 again.
- *Storing loses*: FP16 and the floor have other entries, and the operands of that value do not.
  Then who makes it and who reads it compute in FP32, forwards until the span has closed.

Each round proves the network again; bounds on rounds and on the size of islands end this.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import inf, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfsafe.amplifiers import ahead_of, amplified, explain
from halfsafe.deviation import ROUNDING, Comparison, Comparisons, deviation
from halfsafe.engines import Engine
from halfsafe.errors import EditError
from halfsafe.formats import FLOAT16, FLOAT32
from halfsafe.graph import Graph
from halfsafe.prepare import Preparation, Prepared, touches_half
from halfsafe.proof import Proof, Standard, prove
from halfsafe.references import References
from halfsafe.samples import Call, Samples
from halfsafe.source import Progress, Source
from halfsafe.verdict import VISIBLE, Answer, Finding, Verification

ROUNDS = 24
"""How often the network is tried again, with larger islands."""

FAR = 1.25
"""Times the floor, or the error reached before, from which on it is worth another island."""

ENOUGH = 0.5
"""The share of the tolerance under which a safe network is not brought nearer to its reference."""

SHARE = 0.25
"""The share of operators beyond which an island is no remedy, but another deployment."""

SMALL = 24
"""Operators that an island may have in any network."""


Found = tuple[Prepared, Verification]
"""A plan and its proof."""


def error_of(comparison: Comparison) -> float:
    """The relative error of a value in FP16; of integers the root of the share that differ."""
    return comparison.half.relative


def behind(graph: Graph, values: Iterable[str], depth: int) -> list[str]:
    """The operators that make these values, and those that make their operands, `depth` deep."""
    found: dict[str, None] = {}
    level = list(values)
    for _ in range(depth):
        makers = {graph.producers[v].name: None for v in level if v in graph.producers}
        new = [name for name in makers if name not in found]
        found.update(dict.fromkeys(new))
        operands = (v for name in new for v in graph.by_name[name].inputs.values())
        level = [v for v in dict.fromkeys(operands) if graph.values[v].floating]
    return [name for name in found if touches_half(graph, name)]


class Mending:
    """Tries islands for one model, beginning with a plan whose proof failed."""

    def __init__(self, original: Source, preparation: Preparation) -> None:
        self.original, self.preparation = original, preparation

    def islands(self, prepared: Prepared, proof: Verification, call: Call) -> Prepared | None:
        """A plan with more operators in FP32, for what is wrong with a sample.

        Where the floor is right, storing is at fault; where it is not, bits are. None where no
        island of a reasonable size is left to try, or nothing of the sample is wrong in FP16.
        """
        numbers = {f.output for f in troubled(proof) if f.sample == call.number}
        wrong = [name for i, name in enumerate(prepared.source.graph.outputs) if i in numbers]
        if not wrong:
            return None
        compared = self._compared(prepared, call)
        if proof.answer is Answer.NOT_SAFE or any(map(_loses, troubled(proof))):
            return self._around_loss(prepared, compared, wrong) or self._behind_amplifiers(
                prepared, compared, wrong, proof, call
            )
        return self._behind_amplifiers(prepared, compared, wrong, proof, call)

    def _around_loss(
        self, prepared: Prepared, compared: Comparisons, wrong: Sequence[str]
    ) -> Prepared | None:
        """With the value in FP32 at which storing loses most, and those who read it."""
        graph, known = prepared.source.graph, self.preparation.graph
        for value in losses(graph, compared, wrong):
            nodes = prepared.island.union(at(graph, known, value))
            if len(nodes) > len(prepared.island) and self._is_reasonable(nodes):
                lost = compared[value].differing
                why = f"{graph.describe(value)} loses {lost} entries when it is stored in FP16"
                return self._prepared(nodes, why)
        return None

    def _prepared(self, nodes: Collection[str], why: str) -> Prepared | None:
        """A plan with these operators in FP32, None where one of them has no such form."""
        try:
            return self.preparation.prepared(nodes, why, eager=True)
        except EditError:
            return None

    def _behind_amplifiers(
        self,
        prepared: Prepared,
        compared: Comparisons,
        wrong: Sequence[str],
        proof: Verification,
        call: Call,
    ) -> Prepared | None:
        """With operators in FP32 whose operands need more bits, as far back as it takes."""
        graph, limit = self.preparation.graph, self._limit(proof, call)
        errors = {name: error_of(comparison) for name, comparison in compared.items()}
        found = amplified(prepared.source.graph, errors, wrong, limit)
        found = [c for c in found if c.value in graph.producers]
        if not found:
            return None
        why, roots = explain(graph, found), [c.value for c in found]
        return self._shallowest(prepared, roots, call, limit, why)

    def _is_reasonable(self, nodes: Collection[str]) -> bool:
        return len(nodes) <= max(SMALL, SHARE * len(self.preparation.graph.nodes))

    def _shallowest(
        self, prepared: Prepared, roots: Sequence[str], call: Call, limit: float, why: str
    ) -> Prepared | None:
        """The least depth of island behind the roots at which they are right: doubled until it is
        enough, then halved in between."""
        graph, held = self.preparation.graph, prepared.island

        def tried(depth: int) -> Prepared | None:
            nodes = held.union(behind(graph, roots, depth))
            if nodes == held or not self._is_reasonable(nodes):
                return None
            trial = self._prepared(nodes, why)
            if trial is None:
                return None
            return trial if self._error_at(roots, trial, call) <= limit else None

        too_small, depth, all_of_them = 0, 1, len(behind(graph, roots, len(graph.nodes)))
        while (found := tried(depth)) is None:
            nodes = behind(graph, roots, depth)
            if len(nodes) == all_of_them or not self._is_reasonable(nodes):
                return None
            too_small, depth = depth, 2 * depth
        while depth - too_small > 1:
            middle = (depth + too_small) // 2
            trial = tried(middle)
            found, depth, too_small = (
                (found, depth, middle) if trial is None else (trial, middle, too_small)
            )
        return found

    def _error_at(self, roots: Sequence[str], prepared: Prepared, call: Call) -> float:
        """The worst error of some values of the fixed network in FP16, on one sample.

        Only what they are computed from is run, unless they are inside of a body.
        """
        deployed = prepared.deployed(self.original)
        made, apart = deployed.graph.producers, {s[0] for s in deployed.steps if len(s) == 1}
        there = [root for root in roots if root in made]
        if not all(made[root].name in apart for root in there):
            _, compared = deployed.compare([call], self.preparation.progress)
            return max((error_of(compared[root]) for root in there), default=0.0)
        part = deployed.extract(None, there)
        ((exact, half),) = part.evaluate_on([call], (FLOAT32, FLOAT16))
        return max(map(_error, half, exact), default=0.0)

    def _compared(self, prepared: Prepared, call: Call) -> Comparisons:
        _, compared = prepared.deployed(self.original).compare([call], self.preparation.progress)
        return compared

    def _limit(self, proof: Verification, call: Call) -> float:
        """The error from which on a value is wrong: an eighth of that of the worst output."""
        found = [f for f in troubled(proof) if f.sample == call.number]
        worst = max(1.0 if f.differing else min(f.error, 1.0) for f in found)
        return max(worst / 8, 2 * ROUNDING)


def _error(found: NDArray[Any], known: NDArray[Any]) -> float:
    """The same as `error_of`, of one value in FP16 and in FP32."""
    if found.shape != known.shape:
        return inf
    if known.dtype.kind != "f":
        return sqrt(np.count_nonzero(found != known) / max(known.size, 1))
    return deviation(found, known).relative


def losses(graph: Graph, compared: Comparisons, outputs: Iterable[str]) -> list[str]:
    """Values ahead of some outputs that FP16 has other than the floor, all that they are computed
    from being the same: the largest share of entries first."""
    ahead = ahead_of(graph, outputs)
    differs = {name for name, c in compared.items() if c.differing}
    first = [v for v in graph.values if v not in graph.producers and v in ahead & differs]
    first += [
        output
        for node in graph.nodes
        for output in node.outputs
        if output in ahead & differs and not differs.intersection(node.inputs.values())
    ]
    return sorted(first, key=lambda v: -compared[v].differing / max(compared[v].half.count, 1))


def at(graph: Graph, known: Graph, value: str) -> list[str]:
    """The known operators that make a value and read it, seen through Casts and what only moves."""
    found: dict[str, None] = {}
    maker = graph.producers.get(value)
    while maker is not None and maker.name not in known.by_name:
        maker = graph.producers.get(next(iter(maker.inputs.values()), ""))
    if maker is not None:
        found[maker.name] = None
    pending = [value]
    while pending:
        for use in graph.consumers[pending.pop()]:
            node = graph.by_name[use.node]
            if node.name in known.by_name:
                found[node.name] = None
            if node.moves or node.name not in known.by_name:
                pending += node.outputs
    return [name for name in found if touches_half(known, name)]


def troubled(proof: Verification) -> list[Finding]:
    """What fails; where nothing does, what an island may bring nearer to its reference still."""
    failed = [f for f, answer, _ in proof.judged if answer is not Answer.SAFE]
    return failed or [f for f in proof.findings if f.error > VISIBLE or _loses(f)]


def _loses(found: Finding) -> bool:
    """Whether storing costs more than rounding does."""
    return found.ratio > FAR and found.error > 2 * ROUNDING


def mended(
    references: References,
    preparation: Preparation,
    supply: Samples,
    standard: Standard,
    engine: Engine,
    progress: Progress,
) -> Found:
    """The best plan found, with its proof on all samples.

    A proof that fails is answered in this order: with a plan that also mends what is merely
    imprecise, with the ranges of the samples that were not measured, and with islands.
    """

    original = references.original

    def proved(prepared: Prepared, calls: Iterable[Call] = supply) -> Found:
        exact = prepared.exact(original)
        deployed = prepared.replaced(exact)
        proof = Proof(references, exact, deployed, engine, standard, forms=bool(prepared.forms))
        last = supply.count - 1
        unmeasured, group = preparation.unmeasured, preparation.group
        return prepared, prove(proof, calls, last, unmeasured, progress, group)

    best = proved(preparation.prepared())
    if best[1].safe:
        return best
    if best[0].plan.is_empty:
        best = min(best, proved(preparation.prepared(eager=True)), key=_rank)
    if best[1].answer is Answer.NOT_SAFE and preparation.unmeasured:
        preparation.measure_all()
        best = min(best, proved(preparation.prepared(eager=True)), key=_rank)
    if preparation.restrictions:  # a plan that had to give values up may be worse than none
        as_it_is = proved(preparation.unchanged())
        return as_it_is if as_it_is[1].safe else best
    mending = Mending(original, preparation)
    current, call = best, _worst_call(supply, best[1])
    for _ in range(ROUNDS):
        more = call and mending.islands(*current, call)
        if not more or call is None:
            break
        current = proved(more, [call])
        if current[1].safe:
            current = proved(more)
            if best[1].safe and current[1].after > best[1].after / FAR:
                break  # as near to the reference as islands bring it
            best = min(best, current, key=_rank)
            if _is_enough(best[1]):
                break
            call = _worst_call(supply, current[1])
    return best if best[1].safe else min(best, proved(current[0]), key=_rank)


def _is_enough(proof: Verification) -> bool:
    """Whether a network is safe with something to spare, and storing costs what rounding does."""
    spare = bool(proof.metric) or proof.after <= ENOUGH * proof.tolerance
    return proof.safe and spare and not any(map(_loses, proof.findings))


def _rank(found: Found) -> tuple[int, int, float, int]:
    """How bad a plan is: its answer, how many outputs fail, by how much, and what it costs."""
    prepared, proof = found
    order = (Answer.SAFE, Answer.LIMITED, Answer.NOT_SAFE)
    failed = [f for f, answer, _ in proof.judged if answer is not Answer.SAFE]
    error = max((min(f.error, 1e30) for f in troubled(proof)), default=0.0)
    return order.index(proof.answer), len(failed), error, len(prepared.island)


def _worst_call(supply: Samples, proof: Verification) -> Call | None:
    """The sample that is the furthest off; None where the proof fails in FP32 alone."""
    avoidable = {id(f) for f, answer, _ in proof.judged if answer is Answer.NOT_SAFE}
    found = troubled(proof)
    if not found:
        return None
    worst = max(found, key=lambda f: (id(f) in avoidable, f.error, f.differing))
    return next(call for call in supply if call.number == worst.sample)

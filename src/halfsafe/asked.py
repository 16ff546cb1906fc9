"""What a user asks of a fix, checked, and the part of the pipeline that every kind of model has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from halfsafe.engines import Engine, engine_of
from halfsafe.engines.profile import Profile, profile_of
from halfsafe.errors import BadInput
from halfsafe.mending import mended
from halfsafe.prepare import Preparation, Prepared
from halfsafe.proof import Standard
from halfsafe.references import References
from halfsafe.restriction import Restriction
from halfsafe.samples import Samples
from halfsafe.sharing import ALONE, Group
from halfsafe.source import Progress, Source
from halfsafe.verdict import Metric, Verification
from halfsafe.windows import Limits


@dataclass(frozen=True)
class Asked:
    """Bits to leave free, what an output has to be like, where FP16 runs, what that bears, and
    patterns of operators that are kept in FP32 or left as they are."""

    headroom: int
    standard: Standard
    engine: Engine
    bears: Profile
    keep_fp32: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        headroom: int,
        tolerance: float,
        metric: str | Metric | None,
        engine: str | Engine,
        profile: str | Path | Profile | None,
        keep_fp32: str | Sequence[str] = (),
        exclude: str | Sequence[str] = (),
    ) -> Self:
        """Raises BadInput."""
        if headroom < 0:
            raise BadInput(f"headroom is {headroom}: give a number of bits, 0 or more")
        standard, runs_in = Standard(tolerance, metric), engine_of(engine)
        bears = runs_in.profile | profile_of(profile)
        return cls(headroom, standard, runs_in, bears, _patterns(keep_fp32), _patterns(exclude))

    def references(self, original: Source) -> References:
        """The references of a model. Raises BadInput where FP16 cannot hurt it."""
        if not any(v.floating for v in original.graph.values.values()):
            raise BadInput("the model computes with integers only: FP16 cannot hurt it")
        return References(original, self.engine.profile.stores.at_any_exponent)

    def mended(
        self,
        references: References,
        supply: Samples,
        progress: Progress,
        group: Group = ALONE,
        restrictions: Sequence[Restriction] = (),
        bounds: Mapping[str, float] | None = None,
    ) -> tuple[Prepared, Verification]:
        """The best plan, with its proof on all samples, and room for `bounds` of values."""
        limits = Limits(headroom=self.headroom, inside=self.bears.inside, bounds=bounds or {})
        preparation = Preparation(
            references,
            supply,
            limits,
            progress,
            group,
            restrictions,
            self.keep_fp32,
            self.exclude,
        )
        return mended(references, preparation, supply, self.standard, self.engine, progress)

    def notes(self, original: Source) -> list[str]:
        """What the profile has to do with the operators of a model."""
        return self.bears.words(node.op for node in original.graph.nodes)


def _patterns(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)

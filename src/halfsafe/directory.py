"""Checkpoint directories: networks are fixed within what their classes can hold, and proved as they
are read again.

The pipeline is that of `fix`, under a restriction. Behind it stands one more proof, of what is
deployed: the rescaled files, read by their own library, give the bits of the original in FP32, by
one call and by generating with a cache, and in FP16 what any FP16 can give.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from halfsafe.asked import Asked
from halfsafe.deviation import bit_equal, worst_difference
from halfsafe.edits import SetNumber
from halfsafe.engines import Engine
from halfsafe.engines.profile import Profile
from halfsafe.errors import BadInput, first_line, needing
from halfsafe.fix import Fixed
from halfsafe.formats import FLOAT32
from halfsafe.prepare import Prepared
from halfsafe.proof import delivered
from halfsafe.recipe import Recipes
from halfsafe.references import References
from halfsafe.report.gather import write_report
from halfsafe.report.report import Report
from halfsafe.samples import Call, Samples
from halfsafe.source import Progress, Source
from halfsafe.verdict import TOLERANCE, Metric, Verification

if TYPE_CHECKING:
    from halfsafe.frontends.huggingface.delivery import NetworkDelivery
    from halfsafe.frontends.huggingface.folder import Network

TOKENS = 32
"""Tokens that are generated, greedily, to prove that a network is the same with its cache."""


@dataclass(frozen=True)
class FixedDirectory:
    """A directory whose networks are fixed, each by its name; "" is that of one alone.

    What of a pipeline is `copied` has weights that nobody has looked at, as a safety checker.
    """

    path: Path
    networks: Mapping[str, Fixed]
    copied: tuple[str, ...] = ()

    @property
    def safe(self) -> bool:
        """Whether all of them are."""
        return all(fixed.report.safe for fixed in self.networks.values())

    @property
    def reports(self) -> Mapping[str, Report]:
        """What was found, done and proved, by network."""
        return {name: fixed.report for name, fixed in self.networks.items()}

    @property
    def model(self) -> Any:
        """The only network in FP32, bit-identical, as its library reads it."""
        return self._only.model

    def half(self) -> Any:
        """The only network in FP16, as its library reads it."""
        return self._only.half()

    def recipe(self) -> Recipes:
        """The plan by itself, for other checkpoints of the same architecture."""
        return Recipes({name: fixed.delivery.recipe() for name, fixed in self.networks.items()})

    def save(self, path: str | Path, *, dtype: Literal["float16", "float32"] | None = None) -> None:
        """Writes the directory, whole or not at all; what is beside the weights is copied.

        Without a `dtype`, each tensor keeps its type, and ``from_pretrained(path, dtype=float16)``
        gives the FP16 network. Raises BadInput where something lies there already.
        """
        apply_directory(self.path, self.recipe(), Path(path), dtype)

    @property
    def _only(self) -> Fixed:
        if len(self.networks) != 1:
            raise BadInput(f"'{self.path}' has several networks: take one of fixed.networks")
        return next(iter(self.networks.values()))


def fix_directory(
    path: str | Path,
    samples: Any = None,
    *,
    headroom: int = 1,
    tolerance: float = TOLERANCE,
    metric: str | Metric | None = None,
    engine: str | Engine = "strict",
    profile: str | Path | Profile | None = None,
    exclude: str | Sequence[str] = (),
    progress: Progress = lambda _: None,
) -> FixedDirectory:
    """The networks of a transformers or diffusers directory, safe in half precision.

    The plan keeps to what their classes can hold: tensors of the checkpoint, each name at one
    exponent, and numbers of the configuration. `samples` are those of `fix`, as keyword arguments,
    or a list of texts or of PIL images, which the directory's tokenizer or processor reads, two at
    once; of a pipeline, a list of prompts, or a mapping from the name of a network to its samples.
    Without them, a few texts, pictures or sounds are read so; where nothing reads them, they are
    drawn, and notes say so. A pipeline is run, and what its networks are called with are their
    samples. All else is as in `fix`. Raises BadInput, CaptureError, and FoldError where a class
    cannot hold what its network needs.
    """
    from halfsafe.frontends.huggingface.folder import copied_in, networks_in

    path = Path(path)
    asked = Asked.of(headroom, tolerance, metric, engine, profile, exclude=exclude)
    networks = networks_in(path)
    if exclude and len(networks) > 1:
        raise BadInput(f"exclude is for one network, and '{path}' has {len(networks)}")
    by_name = _samples_by_name(path, networks, samples, progress)
    made: dict[str, Fixed] = {}
    for network in networks:
        made[network.name] = _fixed(network, by_name.get(network.name), asked, progress)
    return FixedDirectory(path, made, tuple(copied_in(path)))


def _samples_by_name(
    path: Path, networks: Sequence[Network], samples: Any, progress: Progress
) -> Mapping[str, Any]:
    """What each network is given: the user's samples, or else what a run of the pipeline gives.

    Raises BadInput for what is neither.
    """
    if networks[0].name == "":
        return {"": samples}
    with needing("huggingface", "directories"):
        from halfsafe.frontends.huggingface.recording import recorded

    given: Mapping[str, Any] = {}
    prompts: list[str] = []
    if isinstance(samples, Mapping):
        given = cast("Mapping[str, Any]", samples)
    else:
        prompts = _prompts(path, samples)
    names = [network.name for network in networks]
    odd = sorted(given.keys() - set(names))
    if odd:
        raise BadInput(f"samples are given for '{odd[0]}', which '{path}' has not")
    if not set(names) - given.keys():
        return given
    progress("running the pipeline")
    return {**recorded(path, networks, prompts), **given}


def _prompts(path: Path, samples: Any) -> list[str]:
    """A user's prompts; none without samples. Raises BadInput for anything else."""
    if samples is None:
        return []
    several = isinstance(samples, (list, tuple))
    found = list(cast("Sequence[Any]", samples)) if several else [samples]
    if not found or not all(isinstance(x, str) for x in found):
        raise BadInput(
            f"'{path}' is a pipeline: its samples are prompts, a list of str, or a dict of samples "
            "by the names of its networks"
        )
    return found


def _fixed(network: Network, samples: Any, asked: Asked, progress: Progress) -> Fixed:
    """One network, planned and proved."""
    with needing("huggingface", "directories"):
        import torch

        from halfsafe.frontends.huggingface.network import load_and_tell
        from halfsafe.frontends.huggingface.opened import samples_of
        from halfsafe.frontends.huggingface.source import Expressible
        from halfsafe.frontends.torch.source import TorchSource

    progress(f"loading {network}")
    model, drawn = load_and_tell(network, torch.float32)
    made, view = samples_of(network, model, samples)
    supply = Samples(made.samples)
    progress(f"capturing {network}")
    notes = [*made.notes, *_on_what_is_not_held(network, drawn), *view.notes]
    original = TorchSource.open(view.of(model), supply.first, None, supply.some)
    references = asked.references(original)
    expressible = Expressible.of(network, original, view)
    restrictions = expressible.restrictions()
    prepared, proof = asked.mended(references, supply, progress, restrictions=restrictions)
    notes += _on_epsilons(original, prepared, references, supply, proof)
    if not proof.bit_equal and prepared.restriction is not restrictions[0]:  # one is seen
        strictest = restrictions[:1]
        prepared, proof = asked.mended(references, supply, progress, restrictions=strictest)
    delivery = expressible.deliver(prepared.edits)
    progress(f"reading {network} again")
    proof, more = _as_read_again(model, delivery, references, supply, proof)
    notes += [*more, *asked.notes(original)]
    report = write_report(original, prepared, proof, supply.count, asked.headroom, notes)
    return Fixed(report, delivery)


def _on_what_is_not_held(network: Network, drawn: Sequence[str]) -> list[str]:
    """What the user should know of tensors that no file holds, and of modules of others."""
    from halfsafe.frontends.huggingface.folder import modules_behind

    notes: list[str] = []
    if drawn:
        more = f" and {len(drawn) - 1} more" if len(drawn) > 1 else ""
        notes.append(
            f"no file holds '{drawn[0]}'{more}: each from_pretrained of {network.kind} draws other "
            "values, and what is computed with them means nothing"
        )
    notes += [
        f"'{name}' is copied as it is: it reads what the network gives, and was not looked at"
        for name in modules_behind(network.path)
    ]
    return notes


MARGIN = 6
"""Bits by which epsilons that stay are enlarged, to see how near they are to be seen."""


def _on_epsilons(
    original: Source,
    prepared: Prepared,
    references: References,
    calls: Iterable[Call],
    proof: Verification,
) -> list[str]:
    """What the user should know of epsilons that the plan would rescale and the class keeps."""
    kept = prepared.restriction.kept if prepared.restriction else ()
    rescaled = {use: k for use in sorted(kept) if (k := prepared.plan.uses.get(use, 0))}
    if not rescaled:
        return []
    first = original.graph.by_name[next(iter(rescaled)).node]
    said = (
        f"{len(rescaled)} epsilons, the first of them that of {first}, stay as they are, since the "
        f"class has no setting for them alone: beside rescaled values they weigh up to "
        f"2^{max(rescaled.values())} times more"
    )
    if not proof.bit_equal:
        return [
            f"tried: {said}, and that is seen. No constant of this class mends it, a .pt2 would"
        ]
    larger = [
        SetNumber(use, original.graph.values[value].number or 0.0, -k - MARGIN)
        for use, k in rescaled.items()
        for value in [original.graph.by_name[use.node].inputs[use.operand]]
    ]
    trial = original.apply(larger)
    unseen = all(
        bit_equal(trial.evaluate(call, FLOAT32), references.of(call).graph) for call in calls
    )
    tell = "nor would it" if unseen else "it would be"
    shown = f"on these samples no bit shows it, {tell} if they weighed {2**MARGIN} times that"
    return [f"{said}; {shown}"]


def _as_read_again(
    model: Any,
    delivery: NetworkDelivery,
    references: References,
    calls: Iterable[Call],
    proof: Verification,
) -> tuple[Verification, list[str]]:
    """The proof with what is wrong with the files as they are read again, and notes."""
    if not proof.safe:
        return proof, []
    for call in calls:
        found, own = delivery.exact_outputs(call), references.of(call).own
        if not bit_equal(found, own):
            why = (
                f"the class as it is read again differs by {worst_difference(found, own):.2g} in "
                f"FP32 on sample {call.number}"
            )
            return replace(proof, delivered=why), []
    proof, notes = delivered(delivery, references, calls, proof)
    if not proof.safe:
        return proof, notes
    first = next(iter(calls))
    why, more = delivery.generation(model, first, TOKENS)
    return replace(proof, delivered=why), [*notes, *more]


def apply_directory(
    path: Path,
    recipes: Recipes,
    target: Path,
    dtype: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Writes a directory's copy with a recipe applied to it, whole or not at all.

    No network is run, and no framework imported. Raises BadInput for a recipe of another
    architecture, and where something lies there already.
    """
    from halfsafe.frontends.huggingface.folder import networks_in, write_directory

    networks = networks_in(path)
    into(target, lambda made: write_directory(path, networks, recipes, made, dtype, progress))


def into(target: Path, write: Callable[[Path], None]) -> None:
    """Fills a folder beside a target and renames it. Raises BadInput if there is one already."""
    check_target(target)
    try:
        partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    except OSError as error:
        raise BadInput(f"cannot write '{target}': {error.strerror}") from error
    try:
        write(partial)
        os.chmod(partial, 0o755)
        if target.is_dir():
            target.rmdir()
        os.replace(partial, target)
    except OSError as error:
        raise BadInput(f"cannot write '{target}': {first_line(error)}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_target(target: Path) -> None:
    """Raises BadInput for a place where no directory can be written."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise BadInput(f"'{target}' is there already: give a directory that is new or empty")
    if not target.absolute().parent.is_dir():
        raise BadInput(f"cannot write '{target}': the folder '{target.parent}' does not exist")

"""Samples of a pipeline's networks: what they are called with while diffusers runs it on prompts.

A network inside a pipeline reads what the others have made, with arguments that no configuration
tells. So the pipeline is run by its own library, for a few steps and in a small size, and each
network's own calls are written down.
"""

# diffusers is optional, and only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingImports=false, reportMissingTypeStubs=false

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Self, SupportsIndex

import numpy as np
import torch
from torch import Tensor, nn

from halfsafe.checkpoint import tensors_in
from halfsafe.drawn import scene
from halfsafe.errors import BadInput, first_line
from halfsafe.frontends.huggingface.folder import PIPELINE, Network, read_json
from halfsafe.frontends.huggingface.network import quietly
from halfsafe.frontends.huggingface.outputs import LATENTS
from halfsafe.frontends.torch.private import tree_leaves, tree_map
from halfsafe.rescaling import shapes_of

PROMPTS = (
    "A photo of a small red boat on a calm lake at sunrise, mountains behind it.",
    "Portrait of an old clockmaker, oil painting, dark background",
)

STEPS, SIDE, FRAMES, WORDS = 4, 32, 9, 128
"""Steps of denoising, and the most latents a side, pictures of a film and tokens of a prompt."""

NOT_TAKEN = ("return_dict", "use_cache", "past_key_values", "generator", "output_attentions")
"""Arguments that say how a result is handed over, or that change from call to call."""

Sample = dict[str, Any]


@dataclass
class Recording:
    """What one network was called with, in as many runs as there are prompts.

    `layers` are those of its hidden states that were read; None if nobody knows. `latents` are what
    its decoder was called with. `told` is said in the report.
    """

    calls: list[Sample] = field(default_factory=list[Sample])
    layers: set[int] | None = None
    latents: list[Tensor] = field(default_factory=list[Tensor])
    told: tuple[str, ...] = ()

    @classmethod
    def absent(cls, why: str) -> Self:
        """Of a network that nobody has called."""
        return cls(told=(why,))


def recorded(
    path: Path, networks: Sequence[Network], prompts: Sequence[str] = ()
) -> Mapping[str, Recording]:
    """The calls of each network of a pipeline, on the user's prompts or on some of our own.

    Where the pipeline cannot be run nothing is recorded, and notes say why; raises BadInput if the
    prompts are the user's.
    """
    try:
        with quietly(), _without_warnings():
            found, told = _run(path, networks, prompts or PROMPTS)
    except Exception as error:  # anything can be wrong with another's code on our arguments
        why = error if isinstance(error, BadInput) else first_line(error)
        if prompts:
            raise BadInput(f"'{path}' cannot be run on these prompts: {why}") from error
        said = f"nothing is recorded, since the pipeline cannot be run here: {why}"
        return {network.name: Recording.absent(said) for network in networks}
    said = f"the prompts are halfsafe's own: {'; '.join(PROMPTS)}"
    ours = () if prompts or " prompts, " not in told else (said,)
    for name, recording in found.items():
        if recording.calls or recording.latents:
            recording.told = (told, *ours)
        else:
            recording.told = (f"nothing is recorded: a run of the pipeline does not call {name}",)
    return found


def _run(
    path: Path, networks: Sequence[Network], prompts: Sequence[str]
) -> tuple[Mapping[str, Recording], str]:
    """The pipeline's run on each prompt, and what there is to say of it."""
    pipeline = _loaded(path, networks)
    given = _arguments(pipeline, networks)
    found = {network.name: Recording() for network in networks}
    for number, prompt in enumerate(prompts):
        with ExitStack() as stack:
            logs = {
                name: stack.enter_context(_listening(getattr(pipeline, name), recording))
                for name, recording in found.items()
            }
            _called(pipeline, given, prompt, number, [*logs.values()])
        for name, calls in logs.items():
            some = sorted({0, len(calls) // 2, len(calls) - 1}) if calls else ()
            found[name].calls += [calls[i] for i in some]
    for recording in found.values():
        recording.calls = _uniform(recording.calls)
    size = f", {given['width']}x{given['height']}" if {"width", "height"} <= given.keys() else ""
    reads = "prompt" in inspect.signature(pipeline.__call__).parameters
    counted = f"{len(prompts)} {'prompt' if reads else 'call'}{'s' * (len(prompts) > 1)}"
    steps = f"{given['num_inference_steps']} steps" if "num_inference_steps" in given else "1 step"
    return found, f"samples are those of a run of the pipeline: {counted}, {steps}{size}"


# The pipeline


def _loaded(path: Path, networks: Sequence[Network]) -> Any:
    """The pipeline in FP32. Raises BadInput, and what its library raises."""
    import diffusers

    with quietly():  # its bars are known only now
        kind = read_json(path / PIPELINE).get("_class_name")
        found: Any = getattr(diffusers, kind, None) if isinstance(kind, str) else None
        if not hasattr(found, "set_progress_bar_config"):
            raise BadInput(f"diffusers {diffusers.__version__} has no pipeline {kind}")
        _check_room(networks)
        pipeline = found.from_pretrained(path, torch_dtype=torch.float32, local_files_only=True)
    for network in networks:
        if not isinstance(getattr(pipeline, network.name, None), nn.Module):
            raise BadInput(f"{kind} has no network '{network.name}'")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _check_room(networks: Sequence[Network]) -> None:
    """Raises BadInput where all networks at once, in FP32, do not fit into memory."""
    shapes = (shapes_of(tensors_in(network.path)).values() for network in networks)
    needed = 4 * sum(prod(shape) for each in shapes for shape in each)
    free = _free()
    if free is not None and needed > 0.8 * free:
        raise BadInput(f"it has {needed / 2**30:.1f} GiB in FP32, and {free / 2**30:.1f} are free")


def _free() -> int | None:
    """Bytes of memory that are free; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = dict(line.split(":", 1) for line in lines)
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None


def _arguments(pipeline: Any, networks: Sequence[Network]) -> dict[str, Any]:
    """What the pipeline's call takes of what makes it quick."""
    takes = inspect.signature(pipeline.__call__).parameters
    side = _side(pipeline, networks)
    known: dict[str, Any] = {
        "num_inference_steps": STEPS, "height": side, "width": side, "num_frames": FRAMES,
        "output_type": "np", "use_resolution_binning": False,
    }  # fmt: skip
    longest = takes["max_sequence_length"].default if "max_sequence_length" in takes else None
    if isinstance(longest, int):
        known["max_sequence_length"] = min(longest, WORDS)
    return {name: x for name, x in known.items() if name in takes}


def _side(pipeline: Any, networks: Sequence[Network]) -> int:
    """Pixels a side: those of the pipeline's own size, but of no more than some latents."""
    factors = ("vae_scale_factor", "vae_scale_factor_spatial")
    found = (getattr(pipeline, name, None) for name in factors)
    otherwise = 8 if hasattr(pipeline, "vae") else 1
    factor = next((x for x in found if isinstance(x, int)), otherwise)
    sizes = [
        x
        for n in networks
        if isinstance(x := n.config.get("sample_size"), int)
        and "timestep" in inspect.signature(getattr(pipeline, n.name).forward).parameters
    ]
    return factor * min(SIDE, *sizes) if sizes else factor * SIDE


def _called(
    pipeline: Any, given: Mapping[str, Any], prompt: str, number: int, logs: Sequence[list[Sample]]
) -> None:
    """One run: of the prompt alone, or, if that is not enough for it, of a picture as well."""
    takes = inspect.signature(pipeline.__call__).parameters
    own = {"prompt": prompt, "class_labels": [number]}
    pictures = {"image": scene(number), "control_image": scene(number), "mask_image": _half()}
    given = {**given, **{name: x for name, x in own.items() if name in takes}}
    shown = {name: _picture(x, given) for name, x in pictures.items() if name in takes}
    needed = shown.keys() & {n for n, p in takes.items() if p.default is p.empty}
    tries = [given | shown] if needed else [given, given | shown] if shown else [given]
    for i, arguments in enumerate(tries):
        if "generator" in takes:
            arguments["generator"] = torch.Generator().manual_seed(number)
        try:
            with torch.no_grad(), torch.random.fork_rng([]):
                torch.manual_seed(number)
                pipeline(**arguments)
            return
        except Exception:
            if i + 1 == len(tries):
                raise
            for log in logs:
                log.clear()


def _half() -> np.ndarray[Any, Any]:
    """A mask of the left half."""
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[:, :32] = 255
    return mask


def _picture(pixels: np.ndarray[Any, Any], given: Mapping[str, Any]) -> Any:
    from PIL import Image

    size = given.get("width", 64), given.get("height", 64)
    return Image.fromarray(pixels).resize(size)


@contextmanager
def _without_warnings() -> Generator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# Its networks


@contextmanager
def _listening(module: nn.Module, recording: Recording) -> Generator[list[Sample]]:
    """Within it, calls of a network are written down, and which of its hidden states are read."""
    calls: list[Sample] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(_bound(module, args, kwargs))

    def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], found: Any) -> Any:
        if not kwargs.get("output_hidden_states"):
            return found
        recording.layers = set() if recording.layers is None else recording.layers
        return _watched(found, recording.layers)

    hooks = [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True),
    ]
    own: Any = module
    decode = own.decode if hasattr(module, "encode") and hasattr(module, "decode") else None
    if decode is not None:

        def decoding(*args: Any, **kwargs: Any) -> Any:
            given = [*inspect.signature(decode).bind(*args, **kwargs).arguments.values()]
            recording.latents += [_copied(x) for x in given[:1] if isinstance(x, Tensor)]
            return decode(*args, **kwargs)

        own.decode = decoding
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
        if decode is not None:
            del own.decode


class _Watched(tuple[Any, ...]):
    """A tuple that writes down which of its entries are read."""

    log: set[int]

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        picked = range(len(self))[index]
        self.log.update(picked if isinstance(picked, range) else [picked])
        return super().__getitem__(index)

    def __iter__(self) -> Any:
        self.log.update(range(len(self)))
        return super().__iter__()


def with_latents(model: nn.Module, samples: Sequence[Sample]) -> list[Sample]:
    """Samples as they are, or an autoencoder's pictures with the latents that it makes of them."""
    if not (hasattr(model, "encode") and hasattr(model, "decode")):
        return [*samples]
    made: list[Sample] = []
    for sample in samples:
        recording = Recording()
        if LATENTS not in sample:
            with suppress(Exception), torch.no_grad(), _listening(model, recording):
                model(**sample)  # whoever runs it next tells what is wrong
        made.append(sample | ({LATENTS: recording.latents[0]} if recording.latents else {}))
    return made


def _watched(found: Any, log: set[int]) -> Any:
    """What a network gives, with its hidden states watched."""
    if isinstance(found, tuple):
        return tuple(_watch(x, log) if isinstance(x, tuple) else x for x in found)
    if isinstance(found, dict) and isinstance(found.get("hidden_states"), tuple):
        found["hidden_states"] = _watch(found["hidden_states"], log)
    return found


def _watch(states: tuple[Any, ...], log: set[int]) -> _Watched:
    made = _Watched(states)
    made.log = log
    return made


def _bound(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sample:
    """A call's arguments by forward()'s names: tensors copied, and what is not as by default."""
    signature = inspect.signature(module.forward)
    given: Sample = {}
    for name, x in signature.bind(*args, **kwargs).arguments.items():
        kind = signature.parameters[name].kind
        given |= x if kind is inspect.Parameter.VAR_KEYWORD else {name: x}
    takes = {name: parameter.default for name, parameter in signature.parameters.items()}
    return {
        name: tree_map(_copied, x)
        for name, x in given.items()
        if name not in NOT_TAKEN
        and (takes.get(name) is inspect.Parameter.empty or (_says(x) and x is not takes.get(name)))
    }


def _says(x: Any) -> bool:
    """Whether an argument says something: it has tensors, numbers or words, and nothing else."""
    leaves = tree_leaves(x)
    known = (Tensor, bool, int, float, str, type(None))
    return any(leaf is not None and leaf is not False for leaf in leaves) and all(
        isinstance(leaf, known) for leaf in leaves
    )


def _copied(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    x = x.detach().cpu().clone(memory_format=torch.contiguous_format)
    return x.float() if x.is_floating_point() else x


def _uniform(calls: Iterable[Sample]) -> list[Sample]:
    """Calls of the same arguments: numbers that vary as tensors; others that vary leave it out."""
    calls = [*calls]
    varying = {
        name
        for call in calls
        for name, x in call.items()
        if type(x) in (int, float) and any(other.get(name) != x for other in calls)
    }
    made = [
        {name: torch.tensor(x) if name in varying else x for name, x in call.items()}
        for call in calls
    ]
    return [call for call in made if _constants(call) == _constants(made[0])]


def _constants(call: Sample) -> Any:
    """A call without the values of its tensors, whose shapes may vary."""

    def constant(x: Any) -> Any:
        return "*" if isinstance(x, Tensor) else x

    return tree_map(constant, call)

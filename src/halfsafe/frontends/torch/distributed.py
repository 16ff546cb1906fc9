"""The processes of torch.distributed, over which samples are shared out."""

# torch.distributed is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast

import torch.distributed as dist

from halfsafe.errors import BadInput

T = TypeVar("T")


@dataclass(frozen=True)
class TorchGroup:
    """The default process group, joined with gloo if the user has not made one."""

    rank: int
    size: int
    ours: bool

    @classmethod
    def join(cls) -> Self:
        """Raises BadInput where no launcher has said which process this is."""
        if not dist.is_available():
            raise BadInput("this build of PyTorch has no torch.distributed: run one process")
        ours = not dist.is_initialized()
        if ours:
            if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
                raise BadInput(
                    "there is no process group: start with torchrun --nproc-per-node N, or call "
                    "torch.distributed.init_process_group first"
                )
            dist.init_process_group("gloo")
        return cls(dist.get_rank(), dist.get_world_size(), ours)

    def gather(self, mine: T) -> list[T]:
        """What every process gives, in the order of their ranks."""
        everyone: list[Any] = [None] * self.size
        dist.all_gather_object(everyone, mine)
        return cast("list[T]", everyone)

    def leave(self) -> None:
        """Takes the group down again if it was joined here."""
        if self.ours:
            dist.destroy_process_group()

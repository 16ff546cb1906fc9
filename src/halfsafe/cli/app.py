"""The command itself: what stands behind it, and what it does without a command."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from halfsafe.cli.shown import out

EPILOG = "Exit status: 0 safe, 1 faults found or left, 2 misuse, 3 a crash of halfsafe itself."


class Commands(TyperGroup):
    """The commands; a model without one is inspected."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and _is_model(args[0]):
            args = ["inspect", *args]
        return super().resolve_command(ctx, args)


def _is_model(given: str) -> bool:
    """Whether a word is a model rather than a misspelt command."""
    return ":" in given or given.endswith((".onnx", ".pt2")) or Path(given).is_dir()


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Makes trained networks safe in half precision, exactly. "
    "Begin with: halfsafe MODEL, which inspects it and says what to do next.",
    epilog=EPILOG,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        out.print(f"halfsafe {version('halfsafe')}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    told: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell it, and end."),
    ] = False,
) -> None:
    """Finds where FP16 breaks a network, fixes it by powers of two, and proves it."""

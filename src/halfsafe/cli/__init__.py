"""The command line: each command in a file, which parses, calls and renders."""

from __future__ import annotations

import os
from typing import NoReturn

from halfsafe.cli.app import app
from halfsafe.cli.applying import apply_command
from halfsafe.cli.bisecting import bisect_command
from halfsafe.cli.certifying import certify_command
from halfsafe.cli.checking import check_command
from halfsafe.cli.doctor import doctor_command
from halfsafe.cli.fixing import fix_command
from halfsafe.cli.inspecting import inspect_command
from halfsafe.cli.reporting import report_command
from halfsafe.cli.shown import err
from halfsafe.cli.verifying import verify_command
from halfsafe.errors import HalfsafeError, first_line
from halfsafe.named import located

__all__ = ["app", "main"]

for _name, _command in {
    "inspect": inspect_command,
    "fix": fix_command,
    "apply": apply_command,
    "verify": verify_command,
    "bisect": bisect_command,
    "certify": certify_command,
    "check": check_command,
    "report": report_command,
    "doctor": doctor_command,
}.items():
    app.command(_name)(_command)


def main() -> None:
    """Entry point. A user's error is one line and exit status 2, a crash of ours one line and 3.

    With HALFSAFE_TRACEBACK set, a crash shows where it happened.
    """
    try:
        app()
    except HalfsafeError as error:
        _fail(f"error: {error}", error, 2)
    except MemoryError as error:
        _fail(f"error: out of memory: {first_line(error)}; use smaller samples", error, 2)
    except Exception as error:
        if os.environ.get("HALFSAFE_TRACEBACK"):
            raise
        said = f"halfsafe crashed: {located(error)}; set HALFSAFE_TRACEBACK=1 to see more"
        _fail(f"{said}, and please report it", error, 3)


def _fail(said: str, error: BaseException, status: int) -> NoReturn:
    err.print(said, style="red", markup=False, highlight=False, soft_wrap=True)
    raise SystemExit(status) from error

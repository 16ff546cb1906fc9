"""Files are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from halfsafe.errors import BadInput


def atomically(path: Path, write: Callable[[str], Any]) -> None:
    """Writes a file under a temporary name beside it, and renames it when it is complete.

    Raises BadInput when there is no such folder, or it cannot be written to.
    """
    try:
        handle, partial = tempfile.mkstemp(suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise BadInput(f"cannot write '{path}': {error.strerror}") from error
    os.close(handle)
    try:
        write(partial)
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
    except OSError as error:
        raise BadInput(f"cannot write '{path}': {error.strerror}") from error
    finally:
        Path(partial).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

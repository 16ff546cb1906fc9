"""The NVIDIA GPU of this machine, as its driver names it: part of what a result holds for."""

from __future__ import annotations

import ctypes
import sys
from functools import cache


@cache
def gpu() -> str:
    """The first GPU and the CUDA version of its driver; "no GPU" where there is none.

    >>> gpu() == "no GPU" or ", driver for CUDA " in gpu()
    True
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "no GPU"
    name, version = ctypes.create_string_buffer(256), ctypes.c_int()
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGetName(name, len(name), 0)
        or driver.cuDriverGetVersion(ctypes.byref(version))
    )
    if failed:
        return "no GPU"
    major, minor = divmod(version.value, 1000)  # 12080 is 12.8
    return f"{name.value.decode()}, driver for CUDA {major}.{minor // 10}"

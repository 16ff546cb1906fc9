"""halfsafe makes trained networks safe in half precision, exactly."""

from halfsafe.errors import BadInput, CaptureError, FoldError, HalfsafeError
from halfsafe.fix import Fixed, fix
from halfsafe.report.model import Report

__all__ = [
    "BadInput",
    "CaptureError",
    "Fixed",
    "FoldError",
    "HalfsafeError",
    "Report",
    "fix",
]

"""halfsafe makes trained networks safe in half precision, exactly."""

from halfsafe.errors import BadInput, CaptureError, FoldError, HalfsafeError
from halfsafe.fix import Fixed, fix, verify
from halfsafe.inspection import inspect
from halfsafe.report.model import Report
from halfsafe.verify import Verification

__all__ = [
    "BadInput",
    "CaptureError",
    "Fixed",
    "FoldError",
    "HalfsafeError",
    "Report",
    "Verification",
    "fix",
    "inspect",
    "verify",
]

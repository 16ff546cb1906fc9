"""halfsafe makes trained networks safe in half precision, exactly."""

from halfsafe.applying import apply_recipe
from halfsafe.bisect import bisect
from halfsafe.bisecting.record import Culprit
from halfsafe.certificate import Certificate
from halfsafe.certify import certify
from halfsafe.checking import Checked, check
from halfsafe.directory import FixedDirectory, fix_directory
from halfsafe.errors import BadInput, CaptureError, FoldError, HalfsafeError
from halfsafe.fix import Fixed, fix, verify
from halfsafe.inspection import inspect
from halfsafe.manual.rewrites import rewrites, rewriting
from halfsafe.manual.scaled import scaled
from halfsafe.report.report import Report
from halfsafe.rules import register
from halfsafe.verdict import Verification
from halfsafe.watching.transitions import Transition
from halfsafe.watching.watch import watch

__all__ = [
    "BadInput",
    "CaptureError",
    "Certificate",
    "Checked",
    "Culprit",
    "Fixed",
    "FixedDirectory",
    "FoldError",
    "HalfsafeError",
    "Report",
    "Transition",
    "Verification",
    "apply_recipe",
    "bisect",
    "certify",
    "check",
    "fix",
    "fix_directory",
    "inspect",
    "register",
    "rewrites",
    "rewriting",
    "scaled",
    "verify",
    "watch",
]

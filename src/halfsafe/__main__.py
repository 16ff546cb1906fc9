"""``python -m halfsafe``, also for torchrun: ``torchrun --nproc-per-node 2 -m halfsafe ...``."""

from halfsafe.cli import main

main()

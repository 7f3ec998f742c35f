"""Command-line binaries: flags in, library calls, files out."""

from experiments.support import interrupts

interrupts.leave_at_once()

"""Command-line binaries: flags in, library calls, files out."""

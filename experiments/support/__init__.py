"""What the binaries share: their scaffold, flags, tables, timing and figures."""

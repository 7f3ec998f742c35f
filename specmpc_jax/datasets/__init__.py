"""Recorded episodes on disk: the official multi-task files, and a format to sample from."""

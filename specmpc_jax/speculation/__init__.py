"""Executing a plan for several steps: mismatch, accept, correct or replan."""

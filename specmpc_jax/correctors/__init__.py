"""Correctors of planned actions and the baselines they are measured against."""

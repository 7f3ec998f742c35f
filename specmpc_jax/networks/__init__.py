"""Flax modules of the world model: layers, encoders, heads, task embedding."""

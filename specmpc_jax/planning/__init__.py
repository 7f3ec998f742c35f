"""MPPI planning over model functions; it knows no networks."""

"""Evaluation: rollouts, returns and their statistics, action latency, videos."""

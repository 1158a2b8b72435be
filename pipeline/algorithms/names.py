"""The algorithms there are. In a file of its own, on which no stage depends: a new one trains nothing anew."""

NAMES = ("grpo", "ppo", "rloo")
"""The packages of `pipeline.algorithms` that are algorithms."""

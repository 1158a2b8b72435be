"""A language model learns to use tools: environment, masked PPO, evaluation, report.

The library knows nothing of DVC and reads no configuration; the scripts in `stages/` do both.
"""

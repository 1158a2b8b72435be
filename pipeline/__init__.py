"""A language model learns to use tools: environment, masked PPO, evaluation, report.

The scripts in `stages/` call it, one for each DVC stage; of the library only `params.py`, which is for
them, knows params.yaml.
"""

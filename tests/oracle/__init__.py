"""TRL 0.11.4's PPO as an oracle: what it computes of two small batches, to hold ours to.

`make oracle` writes the batches (`write_inputs.py`), lets TRL compute in an environment of its own
(`run_trl.py`), and runs `tests/algorithms/ppo/test_oracle.py`, which compares. Inputs and TRL's outputs are kept in
`cases/`, so that the comparison is part of `make test` where TRL is not installed.
"""

"""Training: rollouts of problems, a warm start before, credit and updates, and when to stop."""

"""The tasks there are. In a file of its own, on which no stage depends: a new task trains no other anew."""

NAMES = ("arithmetic", "gsm8k", "trivia", "triviaqa", "word_problems")
"""The modules or packages of `pipeline.tasks` that are tasks."""

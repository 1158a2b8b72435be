"""Tables of episodes as the stage `analyse` writes them, made up."""

import pandas as pd

from pipeline.evaluation.labels import Label


def episodes(rewards, text="Result=1<submit>", label=Label.WRONG_NUMBER):
    """One sampled and one greedy episode for each reward; `label` is that of the wrong ones."""
    rows = [
        {
            "mode": mode,
            "subset": "",
            "id": str(i),
            "question": f"Question {i}?",
            "answer": "1",
            "aliases": ["1"],
            "kind": None,
            "reward": float(reward),
            "end_reason": "submitted",
            "model_tokens": 5 + i,
            "tool_tokens": 3,
            "label": str(Label.CORRECT if reward else label),
            "segments": [
                {"author": "model", "text": text, "tokens": 5 + i},
                {"author": "tool", "text": "42 <b><response>", "tokens": 3},
            ],
        }
        for mode in ("sampled", "greedy")
        for i, reward in enumerate(rewards)
    ]
    return pd.DataFrame(rows)

"""A script for TRL 0.11: learns to use a calculator and a tool class. Run: script.py MODEL_FOLDER.

`make oracle` runs it with TRL as it is, `tests/test_trl.py` with this project, after changing the imports.
"""

import re
import sys

import torch
from transformers import AutoTokenizer
from trl import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer, TextEnvironment

folder = sys.argv[1]
model = AutoModelForCausalLMWithValueHead.from_pretrained(folder)
model_ref = AutoModelForCausalLMWithValueHead.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
tokenizer.pad_token = tokenizer.eos_token


def calculator(expression):
    return f"{eval(expression):g}"


class Doubler:
    """A tool that is an object."""

    def __call__(self, text):
        return str(2 * float(text))


def exact_match_reward(responses, answers=None):
    rewards = []
    for response, answer in zip(responses, answers):
        match = re.search(r"Result\s*=\s*(-?\d+(?:\.\d+)?)\s*<submit>", response)
        correct = match is not None and float(match.group(1)) == answer
        rewards.append(float(correct) - 0.01 * len(response))  # the shorter the better
    return [torch.tensor(reward) for reward in rewards]


prompt = """\
Double 1.5?
<request><Doubler>1.5<call>3.0<response>
Result=3.0<submit>

Double 4?
<request><Calculator>2*4<call>8<response>
Result=8<submit>

"""
generation_kwargs = {
    "min_length": -1,
    "top_k": 0.0,
    "top_p": 1.0,
    "do_sample": True,
    "pad_token_id": tokenizer.eos_token_id,
    "eos_token_id": -1,
    "max_new_tokens": 8,
}
config = PPOConfig(batch_size=4, mini_batch_size=2, learning_rate=1.41e-5, seed=1)
ppo_trainer = PPOTrainer(config, model, model_ref, tokenizer)
text_env = TextEnvironment(
    model,
    tokenizer,
    {"Calculator": calculator, "Doubler": Doubler()},
    exact_match_reward,
    prompt,
    max_turns=2,
    generation_kwargs=generation_kwargs,
)

for _ in range(2):
    numbers = torch.randint(1, 10, (config.batch_size,)).tolist()
    tasks = [f"Double {number}?\n" for number in numbers]
    answers = [2.0 * number for number in numbers]
    queries, responses, masks, rewards, histories = text_env.run(tasks, answers=answers)
    train_stats = ppo_trainer.step(queries, responses, rewards, masks)
    texts = {
        "query": [tokenizer.decode(query) for query in queries],
        "response": [tokenizer.decode(response) for response in responses],
        "answer": answers,
    }
    ppo_trainer.log_stats(train_stats, texts, rewards, ["query", "response", "answer"])
histories[0].show_text(show_legend=True)
histories[0].show_tokens(tokenizer)
print("mean score", train_stats["ppo/mean_scores"], "KL", train_stats["objective/kl"])
ppo_trainer.save_pretrained(sys.argv[2])

"""A script for TRL 0.11: a data set in the trainer, an evaluation between, a python interpreter in a list.

`tests/test_trl_scripts.py` runs it with a tiny model. Run: trl_program_script.py FOLDER OUT.
"""

import sys

import datasets
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.trl import (
    AutoModelForCausalLMWithValueHead,
    PPOConfig,
    PPOTrainer,
    TextEnvironment,
    load_tool,
)

folder, out = sys.argv[1:]


def near(responses, answers=None):
    found = [answer in text for answer, text in zip(answers, responses)]
    return [torch.tensor(right - 0.1 * len(text)) for right, text in zip(found, responses)]


def evaluate(loader, text_env, ppo_trainer):
    rewards = []
    for batch in loader:
        rewards.extend(text_env.run(batch["query"], answers=batch["answer"])[3])
    stacked = torch.stack(rewards).to(ppo_trainer.accelerator.device)
    return ppo_trainer.accelerator.gather_for_metrics(stacked).mean()


wrapped = get_peft_model(
    AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=4, task_type="CAUSAL_LM")
)
model = AutoModelForCausalLMWithValueHead.from_pretrained(wrapped)
tokenizer = AutoTokenizer.from_pretrained(folder)
rows = [{"question": f"What is {i}+{i}?", "answer": str(2 * i)} for i in range(5)]
train = datasets.Dataset.from_list(rows).rename_columns({"question": "query"})
test_loader = torch.utils.data.DataLoader(train.select(range(1, 4)), batch_size=2)
ppo_config = PPOConfig(
    batch_size=2,
    learning_rate=1e-3,
    mini_batch_size=1,
    ppo_epochs=1,
    gradient_accumulation_steps=2,
    log_with="wandb",
    tracker_project_name="trl-programs",
    remove_unused_columns=False,
    optimize_cuda_cache=True,
)
ppo_trainer = PPOTrainer(config=ppo_config, model=model, tokenizer=tokenizer, dataset=train)
test_loader = ppo_trainer.accelerator.prepare(test_loader)
text_env = TextEnvironment(
    model,
    tokenizer,
    [load_tool("lvwerra/python-interpreter")],
    near,
    "Q: What is 3+4?\n<request><PythonInterpreter>\nprint(3+4)\n<call>7<response>\nResult = 7 <submit>\nQ: ",
    max_turns=2,
    generation_kwargs={
        "min_length": -1,
        "top_k": 0.0,
        "top_p": 1.0,
        "do_sample": True,
        "pad_token_id": tokenizer.eos_token_id,
        "eos_token_id": -1,
        "max_new_tokens": 6,
    },
)
for _ in range(1):
    for step, batch in enumerate(ppo_trainer.dataloader):
        mean = evaluate(test_loader, text_env, ppo_trainer) if step == 0 else None
        queries, responses, masks, rewards, _ = text_env.run(
            batch["query"], answers=batch["answer"]
        )
        train_stats = ppo_trainer.step(queries, responses, rewards, masks)
        if mean is not None:
            train_stats["env/reward_mean_test"] = mean
        texts = {"query": batch["query"], "response": [tokenizer.decode(r) for r in responses]}
        ppo_trainer.log_stats(train_stats, texts, rewards)
print(
    "steps", ppo_trainer.current_step, "test", float(evaluate(test_loader, text_env, ppo_trainer))
)
ppo_trainer.save_pretrained(out)

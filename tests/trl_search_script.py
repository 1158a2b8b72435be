"""A script for TRL 0.11: LoRA on a model in four bits, accumulated gradients, a search tool in a function.

`tests/test_trl_scripts.py` runs it with a tiny model and index. Run: trl_search_script.py --model FOLDER --out FOLDER.
"""

from dataclasses import dataclass, field

import torch
from peft import LoraConfig
from transformers import AutoTokenizer, HfArgumentParser

from pipeline.trl import (
    AutoModelForCausalLMWithValueHead,
    PPOConfig,
    PPOTrainer,
    TextEnvironment,
    load_tool,
)


@dataclass
class Arguments:
    model: str
    out: str
    learning_rate: float | None = field(default=1e-3, metadata={"help": "of Adam"})
    mini_batch_size: int | None = field(default=1)
    batch_size: int | None = field(default=4)
    gradient_accumulation_steps: int | None = field(default=2)
    ppo_epochs: int | None = field(default=1)
    max_new_tokens: int | None = field(default=6)
    iterations: int | None = field(default=2)
    seed: int | None = field(default=3)


(args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()

model = AutoModelForCausalLMWithValueHead.from_pretrained(
    args.model,
    use_auth_token=True,
    trust_remote_code=True,
    load_in_4bit=True,
    peft_config=LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=0.05,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=["q_proj", "v_proj"],
    ),
)
tokenizer = AutoTokenizer.from_pretrained(args.model)
tokenizer.pad_token = tokenizer.eos_token
config = PPOConfig(
    batch_size=args.batch_size,
    model_name=args.model,
    learning_rate=args.learning_rate,
    log_with=None,
    mini_batch_size=args.mini_batch_size,
    ppo_epochs=args.ppo_epochs,
    gradient_accumulation_steps=args.gradient_accumulation_steps,
    seed=args.seed,
    optimize_cuda_cache=True,
)
ppo_trainer = PPOTrainer(config=config, model=model, tokenizer=tokenizer)
own_seed = args.seed + 1009 * ppo_trainer.accelerator.process_index

search = load_tool("vwxyzjn/pyserini-wikipedia-kilt-doc")


def second_line(query):
    return search(query).split("\n")[1][:40]


def holds_an_alias(responses, answers=None):
    found = [any(a in text.lower() for a in group) for text, group in zip(responses, answers)]
    return [torch.tensor(right - 0.1 * len(text)) for right, text in zip(found, responses)]


text_env = TextEnvironment(
    model,
    tokenizer,
    {"Wiki": second_line},
    holds_an_alias,
    "Q: Capital of Peru?\n<request><Wiki>Peru<call>Its capital is Lima.<response>\nResult=Lima<submit>\n\nQ: ",
    generation_kwargs={
        "min_length": -1,
        "top_k": 0.0,
        "top_p": 1.0,
        "do_sample": True,
        "pad_token_id": tokenizer.eos_token_id,
        "eos_token_id": -1,
        "max_new_tokens": args.max_new_tokens,
    },
    max_tool_reponse=400,
)
trained = sum(p.numel() for _, p in model.named_parameters() if p.requires_grad)
print("trained share", trained / sum(p.numel() for _, p in model.named_parameters()))

for _ in range(args.iterations):
    tasks, answers = [f"Capital number {i}?" for i in range(config.batch_size)], [["e", "a"]] * 4
    queries, responses, masks, rewards, histories = text_env.run(tasks, answers=answers)
    train_stats = ppo_trainer.step(queries, responses, rewards, masks)
    texts = {
        "query": [tokenizer.decode(query).split("<submit>")[-1] for query in queries],
        "response": [tokenizer.decode(response) for response in responses],
        "answer": [", ".join(group) for group in answers],
    }
    device = ppo_trainer.accelerator.device
    gathered = ppo_trainer.accelerator.gather(torch.tensor(rewards, device=device))
    ppo_trainer.log_stats(train_stats, texts, list(gathered), columns_to_log=[*texts])
ppo_trainer.save_pretrained(args.out)
ppo_trainer.accelerator.save_state(f"{args.out}/state")

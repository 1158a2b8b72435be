"""Shows the pretrained model a task's demonstrations, where the task wants that before training."""

from typing import Any

from pipeline.files import model_bytes, require, require_room, sha256_of
from pipeline.params import load_params
from pipeline.tasks import Demonstration
from pipeline.workspace import (
    BASE,
    WEIGHTS_FILE,
    checkpoint_path,
    demonstrations_path,
    read_demonstrations,
    read_prompt,
    setup_files,
)
from stages.common import outputs, run_stage, snapshot_of


def main(name: str) -> None:
    """Writes data/models/<task>-sft: the model and its losses; with 0 steps only a note."""
    params = load_params()
    settings = params.task(name).warm_start

    def inputs() -> dict[str, Any]:
        params = load_params()
        settings = params.task(name).warm_start
        if settings.steps == 0:
            return {"steps": 0}
        return {
            "warm_start": settings.model_dump(mode="json"),
            "lora": params.model.lora and params.model.lora.describe(),
            "machine": params.machine.describe(),
            "sha256": sha256_of(
                require(demonstrations_path(name), f"demonstrate@{name}"),
                setup_files(name)[0],
                require(BASE / WEIGHTS_FILE, "fetch_model"),
            ),
        }

    with outputs(checkpoint_path(name, "sft"), inputs=inputs) as (beside,):
        if settings.steps == 0:
            beside.mkdir()
            (beside / "README").write_text("No warm start: training starts from the base model.\n")
            print(f"{name}: no warm start")
            return
        # Seconds, which a task without a warm start does not wait for.
        import pandas as pd
        from tqdm import tqdm

        from pipeline.models.lora import set_trained
        from pipeline.models.policy import load_policy, save_model
        from pipeline.training.warm_start import warm_start

        rows = read_demonstrations(name)
        prompt = read_prompt(name)
        if params.model.lora is None:  # an adapter is small
            require_room(beside, model_bytes(BASE))
        policy, tokenizer = load_policy(BASE, made_by="fetch_model")
        precision = params.machine.resolve_precision()
        set_trained(policy.pretrained_model, params.model.lora, precision, settings.seed, BASE)
        policy.to(params.machine.resolve_device())
        snapshot = snapshot_of(f"warm_start-{name}", inputs(), params.snapshot_seconds)
        losses = []
        with tqdm(total=settings.steps, desc=f"warm start {name}", unit="step") as bar:

            def on_step(loss: float) -> None:
                losses.append(loss)
                bar.set_postfix_str(f"loss {loss:.2f}")
                bar.update()

            warm_start(
                policy,
                tokenizer,
                prompt,
                [Demonstration(**row) for row in rows],
                settings,
                params.machine,
                on_step,
                snapshot,
            )
        save_model(policy.pretrained_model, tokenizer, beside)
        pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses}).to_csv(
            beside / "curve.csv", index=False, float_format="%.6g"
        )


if __name__ == "__main__":
    run_stage(main, task=str)

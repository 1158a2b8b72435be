"""Shows the pretrained model a task's demonstrations, where the task wants that before training."""

from typing import Any

from pipeline.files import model_bytes, require, require_room, sha256_of
from pipeline.params import load_params
from pipeline.tasks import load_task, read_demonstration
from pipeline.workspace import (
    BASE,
    WEIGHTS_FILE,
    checkpoint_path,
    demonstrations_path,
    read_demonstrations,
    read_shots,
    setup_files,
)
from stages.common import outputs, run_stage, snapshot_of


def main(name: str) -> None:
    """Writes data/models/<task>-sft: the model and its losses; with 0 steps only a note."""
    params = load_params()
    settings = params.task(name).warm_start
    protocol = params.task(name).environment.protocol

    def inputs() -> dict[str, Any]:
        params = load_params()
        settings = params.task(name).warm_start
        if settings.steps == 0:
            return {"steps": 0}
        return {
            "warm_start": settings.model_dump(mode="json"),
            "protocol": params.task(name).environment.protocol,
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

        from pipeline.environment.chat import protocol_of
        from pipeline.models.policy import load_policy, save_model
        from pipeline.training.warm_start import warm_start

        rows = read_demonstrations(name)
        shots = [read_demonstration(row) for row in read_shots(name)]
        require_room(beside, model_bytes(BASE))
        policy, tokenizer = load_policy(BASE, params.machine.resolve_device(), "fetch_model")
        snapshot = snapshot_of(f"warm_start-{name}", inputs(), params.snapshot_seconds)
        losses = []
        with tqdm(total=settings.steps, desc=f"warm start {name}", unit="step") as bar:

            def on_step(loss: float) -> None:
                losses.append(loss)
                bar.set_postfix_str(f"loss {loss:.2f}")
                bar.update()

            warm_start(
                policy,
                protocol_of(protocol, tokenizer, load_task(name), shots),
                [read_demonstration(row) for row in rows],
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

"""What a training run tells while it runs: a line of figures now and then, and a bar where there is a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback

# What a log may hold and how it reads. The Trainer's own summary is not among it: the run's figures tell the same.
FORMS = {
    "loss": "loss {:.4f}",
    "eval_loss": "held-out loss {:.4f}",
    "advantage": "advantage {:.2f} nats",
    "won": "{:.0%} of the pairs won",
    "chosen": "chosen {:+.2f} nats",
    "learning_rate": "learning rate {:.2g}",
    "grad_norm": "gradient {:.3g}",
    "tokens_per_second": "{:,.0f} tokens/s",
}


def line(step: int, steps: int, logs: dict[str, Any]) -> str:
    """A log as a line; empty if nothing that is told is in it."""
    told = [form.format(float(logs[name])) for name, form in FORMS.items() if name in logs]
    return "  ".join([f"step {step} of {steps}", *told]) if told else ""


class Told(TrainerCallback):
    """Tells on stderr, in the first process, while it is open."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self.bar = Progress(
            TextColumn("Training"), *columns, console=self.console, disable=not self.console.is_terminal
        )
        self.job = self.bar.add_task("", total=None)

    def __enter__(self) -> Told:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()  # also after an error, which would leave a terminal without its cursor

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See :class:`transformers.TrainerCallback`."""
        if state.is_world_process_zero:
            self.bar.reset(self.job, total=state.max_steps, completed=state.global_step)
            self.bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See :class:`transformers.TrainerCallback`."""
        self.bar.update(self.job, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """See :class:`transformers.TrainerCallback`."""
        told = line(state.global_step, state.max_steps, logs or {})
        if told and state.is_world_process_zero:
            self.console.print(told, highlight=False, soft_wrap=True)

"""What a training run says of itself: tokens a second and memory, a line of figures now and then, a bar."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from resource import RUSAGE_SELF, getrusage
from time import perf_counter, process_time
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import TrainerCallback

from pastalm.layout import IGNORE
from pastalm.progress import Progress

# What a log may hold and how it reads. The Trainer's own summary is not among it: the run's figures tell the same.
FORMS = {
    "loss": "loss {:.4f}",
    "eval_loss": "held-out loss {:.4f}",
    "eval_text_loss": "text {:.4f}",
    "eval_tag_loss": "tags {:.4f}",
    "advantage": "advantage {:.2f} nats",
    "won": "{:.0%} of the pairs won",
    "chosen": "chosen {:+.2f} nats",
    "learning_rate": "learning rate {:.2g}",
    "grad_norm": "gradient {:.3g}",
    "tokens_per_second": "{:,.0f} tokens/s",
}


def log_line(step: int, steps: int, logs: dict[str, Any]) -> str:
    """A log as a line; empty if nothing that is shown is in it."""
    shown = [form.format(float(logs[name])) for name, form in FORMS.items() if name in logs]
    return "  ".join([f"step {step} of {steps}", *shown]) if shown else ""


class LoggingCallback(TrainerCallback):
    """Prints logs on stderr and shows a bar, in the first process; sees to it that the last step is logged, and that a
    resumed run logs and saves as often as it is asked to now."""

    progress: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See :class:`transformers.TrainerCallback`."""
        state.compute_steps(args, state.max_steps)  # a checkpoint brings the intervals of the run that wrote it
        self.progress = Progress(
            "Training", state.max_steps, done=state.global_step, unit="steps", enabled=state.is_world_process_zero
        )
        self.progress.__enter__()

    def close(self) -> None:
        """Take the bar away; also after an error, which would leave a terminal without its cursor."""
        if self.progress is not None:
            self.progress.__exit__(None)
            self.progress = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See :class:`transformers.TrainerCallback`."""
        control.should_log |= state.global_step >= state.max_steps
        if self.progress is not None:
            self.progress.update(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """See :class:`transformers.TrainerCallback`."""
        line = log_line(state.global_step, state.max_steps, logs or {})
        if line and self.progress is not None:
            self.progress.print(line)


class Throughput:
    """Counts the batches of this process; sums are over all processes, and asked for by all of them at once.

    Tokens are those of examples, padding is none; ``slots`` counts both. The clock starts with the first batch, so that
    loading is not in it.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.counts = torch.zeros(3, dtype=torch.long, device=accelerator.device)  # tokens, targets, slots
        self.started: float | None = None
        self.started_cpu = 0.0
        self._logged = (0, 0.0)  # tokens and seconds when the rate was last asked for

    def count(self, batches: Sequence[dict[str, Tensor]]) -> None:
        """Take in the batches of one optimiser step, as :class:`pastalm.data.collate.Collator` makes them."""
        if self.started is None:
            self.started, self.started_cpu = perf_counter(), process_time()
        for batch in batches:
            slots = torch.tensor(batch["input_ids"].numel(), device=batch["input_ids"].device)
            tokens = batch["lengths"].sum() if "lengths" in batch else slots
            self.counts += torch.stack([tokens, (batch["labels"] != IGNORE).sum(), slots]).to(self.counts.device)

    @property
    def seconds(self) -> float:
        """Since the first batch."""
        return 0.0 if self.started is None else perf_counter() - self.started

    def totals(self) -> dict[str, int]:
        """Sums over all processes: tokens, targets, slots."""
        sums = self.accelerator.reduce(self.counts.clone(), "sum").tolist()
        return dict(zip(("tokens", "targets", "slots"), sums, strict=True))

    def rate(self) -> float:
        """Tokens a second, of all processes, since the last time this was asked."""
        tokens, seconds = self.totals()["tokens"], self.seconds
        before, self._logged = self._logged, (tokens, seconds)
        return (tokens - before[0]) / max(seconds - before[1], 1e-9)

    def report(self) -> dict[str, float]:
        """All figures of this run: see docs/training.md."""
        totals, seconds = self.totals(), self.seconds
        peak = self.accelerator.gather(torch.tensor([peak_memory(self.accelerator.device)]).to(self.accelerator.device))
        return {
            "tokens": totals["tokens"],
            "targets": totals["targets"],
            "seconds": round(seconds, 2),
            "cpu_seconds": round(process_time() - self.started_cpu, 2) if self.started is not None else 0.0,
            "tokens_per_second": round(totals["tokens"] / max(seconds, 1e-9), 1),
            "fill": round(totals["tokens"] / max(totals["slots"], 1), 4),
            "peak_memory_mib": round(float(peak.max())),
        }


def peak_memory(device: torch.device) -> float:
    """The most memory this process has held, in MiB: of the GPU's where it runs on one, else its resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss counts bytes there, KiB elsewhere
    return getrusage(RUSAGE_SELF).ru_maxrss / unit

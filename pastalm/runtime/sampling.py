"""From logits to tokens: what the grammar forbids is masked, promises are made likelier or rarer on request, every
thread draws from a generator of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from pastalm.lang.recogniser import Legal
from pastalm.runtime.thread import Path

MAX_SPEED = 3
TEMPERATURES = (1e-6, 1e6)  # beyond these float32 has no numbers left, and the draws would be the same


@dataclass(frozen=True)
class SamplingOptions:
    """``temperature`` 0 is greedy; ``top_p`` keeps the likeliest tokens that make up this share of the probability.
    ``speed``, in nats, is added to the logit of starting a promise, before all else: 0 is the model itself."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    speed: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < inf:
            raise ValueError(f"temperature must be a number from 0 (greedy) up, not {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is a share above 0 and at most 1, not {self.top_p}.")
        if not -MAX_SPEED <= self.speed <= MAX_SPEED:
            raise ValueError(
                f"speed is a number from -{MAX_SPEED} (fewer chunks) to {MAX_SPEED} (more chunks), not {self.speed}."
            )


class LegalMasks:
    """Bool [V] masks of illegal tokens, made once for each set that the grammar asks for."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.size, self.device = size, device
        self.masks: dict[tuple[object, ...], Tensor] = {}

    def illegal(self, legal: Legal) -> Tensor:
        """True at the tokens that may not come."""
        if legal.key not in self.masks:
            mask = torch.full((self.size,), legal.only, dtype=torch.bool)
            mask[[token for token in legal.ids if token < self.size]] = not legal.only
            self.masks[legal.key] = mask.to(self.device)
        return self.masks[legal.key]


class Sampler:
    """Draws the next token of each thread. A thread's draws depend on the seed and its path alone, never on which other
    threads share its step."""

    def __init__(self, options: SamplingOptions, masks: LegalMasks) -> None:
        self.options, self.masks = options, masks
        self.generators: dict[Path, torch.Generator] = {}

    def __call__(self, logits_TV: Tensor, legal: Sequence[Legal], paths: Sequence[Path]) -> list[int]:
        """One token for each row of logits."""
        logits = self._allowed(logits_TV, legal)
        if self.options.temperature == 0:
            return logits.argmax(-1).tolist()
        logits, (low, high) = logits.float(), TEMPERATURES
        logits = logits - logits.amax(-1, keepdim=True)  # no temperature, however low, makes them infinite
        probabilities = torch.softmax(logits / min(max(self.options.temperature, low), high), dim=-1)
        noise = torch.stack([self._noise(path, logits.shape[-1]) for path in paths]).to(logits.device)
        return (self._nucleus(probabilities) / noise).argmax(-1).tolist()  # a draw without a host round trip

    def _allowed(self, logits_TV: Tensor, legal: Sequence[Legal]) -> Tensor:
        """The logits as the grammar and the speed have them."""
        illegal = torch.stack([self.masks.illegal(one) for one in legal])
        logits = logits_TV.masked_fill(illegal, float("-inf"))
        rows = [row for row, one in enumerate(legal) if one.promise is not None and one.promise < self.masks.size]
        if self.options.speed and rows:
            logits = logits.float()  # half precision would swallow a small bias
            logits[rows, [legal[row].promise for row in rows]] += self.options.speed
        return logits

    def _nucleus(self, probabilities: Tensor) -> Tensor:
        if self.options.top_p == 1:
            return probabilities
        ordered, order = probabilities.sort(dim=-1, descending=True)
        dropped = ordered.cumsum(-1) - ordered >= self.options.top_p  # what stands before a token already suffices
        dropped[..., 0] = False  # float32 has no share so small
        return probabilities.masked_fill(dropped.gather(-1, order.argsort(-1)), 0.0)

    def _noise(self, path: Path, size: int) -> Tensor:
        if path not in self.generators:
            digest = hashlib.sha256(f"{self.options.seed} {path}".encode()).digest()
            self.generators[path] = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return torch.empty(size).exponential_(generator=self.generators[path])

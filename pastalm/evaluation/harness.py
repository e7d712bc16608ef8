"""EleutherAI's lm-evaluation-harness with our engine: the model `pasta` of `lm_eval`.

    python -m pastalm.evaluation.harness --model pasta --model_args pretrained=bundled,mode=async --tasks gsm8k

The command line is the harness's own, with this model registered; in Python, importing this module registers it. The
package is the extra ``harness``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from pastalm.files.packages import require
from pastalm.lang.prompt import RawPrompt
from pastalm.progress import track
from pastalm.runtime.engine import Engine
from pastalm.runtime.request import Mode, RequestOptions

require("lm_eval", "harness")

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import maybe_truncate, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

GENERATED = 256  # tokens of an answer where a task says nothing: what the harness has elsewhere
BATCH = 8  # requests side by side for the batch size "auto"
TRANSLATED = ("until", "max_gen_toks", "do_sample")  # of what tasks set: the engine has other names for these
OFFERED = tuple(  # to model_args: the others are the task's, or ours
    field.name
    for field in fields(RequestOptions)
    if field.name not in ("mode", "max_tokens", "temperature", "seed", "stop", "eager", "observe", "logprobs")
)
_log = logging.getLogger(__name__)

# As the harness hands it over: the texts of a context and its continuation, and the ids of both.
TokenizedPair = tuple[Any, list[int], list[int]]


@register_model("pasta")
class PastaLM(TemplateLM):
    """A model by any name that :meth:`pastalm.Engine.from_pretrained` knows, answering in ``mode`` async or sequential.

    ``batch_size`` requests are decoded side by side, or scored in one pass; ``seed`` is that of sampled answers.
    ``options`` are more of :class:`~pastalm.runtime.request.RequestOptions`, ``promise_bias`` or ``max_threads`` for
    example; where a task sets one of them, that counts. Raises what these raise, and ``ValueError`` for an unknown
    option.
    """

    def __init__(
        self,
        pretrained: str,
        mode: str = Mode.ASYNC,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | str = BATCH,
        seed: int = 0,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if unknown := sorted(options.keys() - set(OFFERED)):
            raise ValueError(f"model_args may not set {unknown[0]!r}; an answer's options are {', '.join(OFFERED)}.")
        RequestOptions(mode=mode, **options)  # it checks itself
        self.options, self.seed = {"mode": mode, **options}, seed
        self.batch_size = int(batch_size) if str(batch_size).isdigit() else BATCH
        if device.startswith("cuda") and not torch.cuda.is_available():
            device = "auto"  # the harness's command line says cuda:0 on every machine
        self.engine = Engine.from_pretrained(pretrained, device, dtype, trust_remote_code=trust_remote_code)
        self.tokenizer, self._device = self.engine.tokenizer, self.engine.runner.device

    @property
    def tokenizer_name(self) -> str:
        """What requests are cached under."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    @property
    def eot_token_id(self) -> int:
        """The end of a text."""
        own = self.tokenizer.eos_token_id
        return min(self.engine.eos, default=0) if own is None else own

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context."""
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else first

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids of a text with the tokenizer's special tokens, none twice; without them if ``add_special_tokens`` is
        False."""
        if add_special_tokens is False:
            return self.engine.prompts.encode_text(string, add_special_tokens=False)
        return self.engine.prompts.encode(RawPrompt(string))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text, ready for the answer, or for the rest of a last message that has begun."""
        if add_generation_prompt:
            return self.engine.prompts.render(chat_history)
        return str(self.tokenizer.apply_chat_template(chat_history, tokenize=False, continue_final_message=True))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answer to each request, up to the first text of its ``until``.

        Asynchronously a chunk may be written before the text that stands ahead of it, so there the answer is cut when
        it is whole. Sequentially decoding stops at once.
        """
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(number)
        answers = [""] * len(requests)
        every = (one for numbers in groups.values() for one in self._generate(requests, numbers))
        for number, text in track(every, "Answering", total=len(requests), unit="prompts"):
            answers[number] = text
            self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return answers

    def _generate(self, requests: Sequence[Any], numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
        """Answers of requests with the same settings, by their numbers."""
        asked = normalize_gen_kwargs(requests[numbers[0]].args[1], GENERATED)
        until, room = [one for one in asked["until"] if one], asked["max_gen_toks"]
        options = self._options(dict(asked)) | {"max_tokens": room}
        if options["mode"] == Mode.SEQUENTIAL:
            options["stop"] = until
        prompts = [self._fitting(self.tok_encode(requests[number].args[0]), room) for number in numbers]
        seeds = [self.seed + number for number in numbers]  # those who ask twice want two answers
        found = self.engine.generate_batch(prompts, max_batch=self.batch_size, seeds=seeds, **options)
        for number, response in zip(numbers, found, strict=True):
            yield number, cut(response.text, until)

    def _options(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The engine's options for what a task sets. What the engine does not have is left out, aloud."""
        temperature = float(asked.pop("temperature", 0.0)) if asked["do_sample"] else 0.0
        if foreign := [name for name in asked if name not in (*OFFERED, *TRANSLATED)]:
            _log.warning("The model 'pasta' does not do what the task sets, and leaves out: %s", ", ".join(foreign))
        own = {name: value for name, value in asked.items() if name in OFFERED}
        return self.options | own | {"temperature": temperature}

    def _fitting(self, ids: list[int], room: int) -> list[int]:
        """The end of a prompt that leaves room for an answer; never nothing."""
        window, ids = self.engine.window, ids or [self.prefix_token_id]
        return ids if window is None else maybe_truncate(ids, min(room, window - 1), window)[0]

    def _loglikelihood_tokens(
        self, requests: Sequence[TokenizedPair], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, and whether it is the greedy one. Equal lengths share a pass.

        Raises ``ValueError`` for a continuation that is longer than the model's window."""
        self._require_room(requests)
        order = sorted(range(len(requests)), key=lambda number: -len(requests[number][1] + requests[number][2]))
        batches = [order[first : first + self.batch_size] for first in range(0, len(order), self.batch_size)]
        results: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        for batch in track(batches, "Scoring", total=len(batches), unit="batches"):
            for number, result in zip(batch, self._score([requests[number] for number in batch]), strict=True):
                results[number] = result
                if texts := requests[number][0]:
                    self.cache_hook.add_partial("loglikelihood", texts, result)
        return results

    def _require_room(self, requests: Sequence[TokenizedPair]) -> None:
        """Every token of a continuation is scored, so all of it has to fit; a context may lose its beginning."""
        window = self.engine.window
        for texts, _, continuation in requests:
            if window is not None and len(continuation) > window:
                raise ValueError(
                    f"The choice {texts[1][:60]!r} has {len(continuation)} tokens, and the model's window is {window}: "
                    "leave this task out, or take a model with a longer window."
                )

    def _score(self, pairs: Sequence[TokenizedPair]) -> Iterator[tuple[float, bool]]:
        limit = None if self.engine.window is None else self.engine.window + 1  # the last token is not fed
        rows = [(context + continuation)[-limit if limit else 0 :] for _, context, continuation in pairs]
        width = max(len(row) for row in rows) - 1
        tokens = torch.tensor([row[:-1] + [0] * (width + 1 - len(row)) for row in rows])
        starts = [len(row) - len(continuation) - 1 for row, (_, _, continuation) in zip(rows, pairs, strict=True)]
        logits = self._logits(tokens, torch.arange(min(starts), width))
        for row, start, logits_KV in zip(rows, starts, logits, strict=True):
            wanted = torch.tensor(row[start + 1 :], device=logits_KV.device)
            scores = logits_KV[start - min(starts) :][: len(wanted)].float().log_softmax(-1)
            greedy = bool((scores.argmax(-1) == wanted).all())
            yield float(scores.gather(-1, wanted[:, None]).sum()), greedy

    def _logits(self, tokens_BT: Tensor, keep_K: Tensor) -> Tensor:
        """Logits [B, K, V] of plain texts at these places."""
        number, width = tokens_BT.shape
        visible = torch.ones(width, width, dtype=torch.bool).tril().expand(number, -1, -1)
        positions = torch.arange(width).expand(number, -1)
        return self.engine.runner.dense_rows(tokens_BT, positions, visible, keep_K)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each text, all of it, read in windows where it is longer than the model's."""
        texts = [request.args[0] for request in requests]
        windows = [list(self._windows(self.tok_encode(text, add_special_tokens=False))) for text in texts]
        scores = iter(self._loglikelihood_tokens([pair for pairs in windows for pair in pairs]))
        totals = [sum(next(scores)[0] for _ in pairs) for pairs in windows]
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def _windows(self, ids: list[int]) -> Iterator[TokenizedPair]:
        """A text in pieces that the model can read, each token in one, with as much before it as there is room."""
        room = self.engine.window or max(1, len(ids))
        for one in get_rolling_token_windows(ids, self.prefix_token_id, room, context_len=1):
            yield None, *make_disjoint_window(one)


def cut(text: str, until: Sequence[str]) -> str:
    """A text up to the first of some texts in it."""
    return text[: min((place for one in until if (place := text.find(one)) >= 0), default=len(text))]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()

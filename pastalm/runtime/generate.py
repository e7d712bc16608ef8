"""The door of transformers: ``model.generate(**inputs, custom_generate=pastalm.generate)`` answers in parallel."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation import (
    EosTokenCriteria,
    GenerateDecoderOnlyOutput,
    MaxLengthCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.engine import Engine
from pastalm.runtime.load import load_tokenizer
from pastalm.runtime.mode import Mode
from pastalm.runtime.request import RequestError
from pastalm.runtime.response import Response

_log = logging.getLogger(__name__)
KNOWN = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, EosTokenCriteria, MaxLengthCriteria)
UNKEPT = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")  # of an output object


def generate(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    generation_config: GenerationConfig | None = None,
    *,
    pasta_tokenizer: Any = None,
    mode: str = Mode.ASYNC,
    promise_bias: float = 0.0,
    stop: str | Sequence[str] | None = None,
    max_threads: int | None = None,
    max_async_tokens: int | None = None,
    annotated: bool = False,
    **model_kwargs: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """Answer each row of ``input_ids`` [B, T], padded on the left, as ``model.generate`` does: returns ids [B, T + L],
    a row's prompt and its answer in document order, padded on the right; or an output object if the generation config
    asks for one. The model is afterwards what it was before.

    Length, temperature, ``top_p``, ends of an answer and padding are the generation config's; ``top_k`` is not applied;
    ``torch.manual_seed`` decides the draws. ``pasta_tokenizer`` is the model's tokenizer with PASTA's tags; by default
    it is loaded from where the model was. ``mode`` to ``max_async_tokens`` are those of
    :class:`pastalm.runtime.request.RequestOptions`. An answer's ids are its text alone; ``annotated`` keeps tags and
    topics. Those of a ``stop`` string that ended it are the last, as with ``stop_strings``. Raises
    :class:`RequestError` for what parallel decoding cannot do, such as beams, embeddings in place of ids, a streamer,
    and other logits processors and stopping criteria.
    """
    _require_no_streamer(model_kwargs.get("streamer"), inspect.currentframe())
    config = generation_config or model.generation_config
    _require_plain(config, model_kwargs, [*(logits_processor or ()), *(stopping_criteria or ())])
    tokenizer = pasta_tokenizer or load_tokenizer(str(model.name_or_path))
    prompts = _prompts(input_ids, model_kwargs.get("attention_mask"))
    with _borrowed(model):
        engine = Engine(model, tokenizer, max_batch=len(prompts))
        engine.eos = frozenset(_ids(config.eos_token_id)) or engine.eos
        if engine.vocabulary:
            engine.vocabulary = Vocabulary(tokenizer, engine.eos)
        responses = list(
            engine.generate_batch(
                prompts,
                seeds=torch.randint(1 << 31, (len(prompts),)).tolist(),
                max_tokens=_length(config, input_ids),
                mode=mode,
                promise_bias=promise_bias,
                stop=stop,
                max_threads=max_threads,
                max_async_tokens=max_async_tokens,
                temperature=(1.0 if config.temperature is None else config.temperature) if config.do_sample else 0.0,
                top_p=(config.top_p or 1.0) if config.do_sample else 1.0,
            )
        )
    answers = [_answer(response, engine.vocabulary, annotated) for response in responses]
    sequences: Any = _padded(input_ids, answers, config, min(engine.eos, default=0))
    return GenerateDecoderOnlyOutput(sequences=sequences) if config.return_dict_in_generate else sequences


def _require_no_streamer(given: Any, frame: FrameType | None) -> None:
    """transformers gives its streamer to no ``custom_generate``, so it is looked up in the caller of this frame."""
    caller = frame and frame.f_back
    if caller is not None and caller.f_code is inspect.unwrap(GenerationMixin.generate).__code__:
        given = caller.f_locals.get("streamer")
    if given is not None:
        given.end()  # whoever reads it in another thread would wait for ever
        raise RequestError("pastalm.generate writes to no streamer: leave it out, or read the events of Engine.stream.")


def _require_plain(config: GenerationConfig, model_kwargs: dict[str, Any], steering: Sequence[Any]) -> None:
    if (config.num_beams or 1) > 1:
        raise RequestError("pastalm.generate has no beams: leave num_beams out.")
    if model_kwargs.get("inputs_embeds") is not None:
        raise RequestError("pastalm.generate reads ids: give input_ids in place of inputs_embeds.")
    others = [type(one).__name__ for one in steering if not isinstance(one, KNOWN)]
    if any(isinstance(one, TopKLogitsWarper) for one in steering):
        _log.warning("pastalm.generate draws by temperature and top_p; top_k is not applied.")
    if others:
        raise RequestError(
            f"pastalm.generate cannot apply {', '.join(others)}: turn off the setting of the call or of the "
            "generation config that asks for it, as with repetition_penalty=1.0."
        )
    if any(_differs(one, config) for one in steering):
        raise RequestError(
            "pastalm.generate takes length and ends from the generation config: give max_new_tokens or eos_token_id "
            "in place of stopping criteria."
        )
    unkept = [name for name in UNKEPT if config.return_dict_in_generate and getattr(config, name, None)]
    if unkept:
        raise RequestError(f"pastalm.generate keeps the ids alone: leave {', '.join(unkept)} out.")


def _differs(one: Any, config: GenerationConfig) -> bool:
    """Whether a criterion says another length or other ends than the generation config, which is what counts here."""
    if isinstance(one, MaxLengthCriteria):
        return bool(one.max_length != config.max_length)
    return isinstance(one, EosTokenCriteria) and {*_ids(one.eos_token_id.tolist())} != {*_ids(config.eos_token_id)}


@contextmanager
def _borrowed(model: PreTrainedModel) -> Iterator[None]:
    """The model runs with our attention here, and with its own afterwards."""
    attention, training = model.config._attn_implementation, model.training
    try:
        yield
    finally:
        model.set_attn_implementation(attention)
        model.train(training)


def _prompts(input_ids: Tensor, mask: Tensor | None) -> list[list[int]]:
    """The ids of each row without its padding."""
    kept = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
    return [row[own].tolist() for row, own in zip(input_ids, kept, strict=True)]


def _length(config: GenerationConfig, input_ids: Tensor) -> int:
    """The most tokens of an answer."""
    if config.max_new_tokens is not None:
        return int(config.max_new_tokens)
    return int(config.max_length) - input_ids.shape[1]


def _answer(response: Response, vocabulary: Vocabulary | None, annotated: bool) -> list[int]:
    """The ids of an answer in document order, with the token that ended it."""
    written = response.script.tokens
    kept = list(written) if annotated or vocabulary is None else list(_text(written, vocabulary))
    return kept if response.end is None else [*kept, response.end]


def _text(tokens: Sequence[int], vocabulary: Vocabulary) -> Iterator[int]:
    """The tokens of the reader's text: without tags, topics and lengths."""
    within = False  # a promise
    for token in tokens:
        if token not in vocabulary.tags and not within:
            yield token
        within = token in (vocabulary.promise_topic, vocabulary.promise_tokens) or (
            within and token not in vocabulary.tags
        )


def _padded(input_ids: Tensor, answers: list[list[int]], config: GenerationConfig, end: int) -> Tensor:
    padding = _ids(config.pad_token_id) or [end]
    longest = max(map(len, answers))
    rows = [answer + padding[:1] * (longest - len(answer)) for answer in answers]
    return torch.cat([input_ids, input_ids.new_tensor(rows).view(len(rows), longest)], dim=1)


def _ids(value: Any) -> list[int]:
    """Ids that a config gives as one, several or none."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [int(value)]

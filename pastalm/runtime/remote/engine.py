"""The engine over a completion server: our language and scheduling, the server's model."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence as Many
from typing import Any, NoReturn

from transformers import PreTrainedTokenizerBase

from pastalm.lang.codec import TextCodec
from pastalm.lang.positions import CONTIGUOUS, PositionPolicy, position_policy
from pastalm.lang.prompt import Prompt, PromptEncoder
from pastalm.lang.tokenizer import end_tokens, has_tags
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.engine import Engine
from pastalm.runtime.load import load_generation_config, load_tokenizer, trained_positions
from pastalm.runtime.remote.scheduler import RemoteScheduler
from pastalm.runtime.remote.server import ATTEMPTS, CompletionServer
from pastalm.runtime.request import RequestError
from pastalm.runtime.sequence import Sequence
from pastalm.runtime.step_lock import StepLock

_log = logging.getLogger(__name__)

KEY = "PASTA_REMOTE_KEY"  # the environment variable that holds the key of a server, if it wants one

NEED_LOGITS = ("observe", "logprobs", "logit_bias", "presence_penalty", "frequency_penalty")


class RemoteEngine(Engine):
    """An :class:`~pastalm.runtime.engine.Engine` whose model runs in a completion server such as vLLM.

    ``base_url`` is the server's, ending in ``/v1``, or several of servers with the same model: requests are spread
    over them by their prompts. ``model`` is its name there (None: the server has one only), ``tokenizer`` the model's
    fast tokenizer, or a directory or hub id that has it; ``api_key`` None is what the environment has as
    ``PASTA_REMOTE_KEY``. ``max_model_len`` bounds prompt and answer together (None: what the server says). At most
    ``max_streams`` completions run at once. ``timeout`` and ``attempts`` are those of
    :class:`~pastalm.runtime.remote.server.CompletionServer`. ``trust_remote_code`` runs code that comes with the
    tokenizer.

    Each thread is a completion of its own; after a sync the joined text is sent as a new prompt. So a model answers as
    well as here only if it was trained for that (``pasta train sft --views server``). The grammar of tags is enforced
    as far as a bias on logits can do it; malformed tags stay text. What needs the model's logits here is refused:
    ``observe``, replay, log probabilities, a bias and the two penalties. Raises :class:`RemoteError` if the server
    cannot be reached or does not know the model.
    """

    def __init__(
        self,
        base_url: str | Many[str],
        model: str | None,
        tokenizer: PreTrainedTokenizerBase | str,
        api_key: str | None = None,
        *,
        max_model_len: int | None = None,
        max_batch: int = 32,
        max_streams: int = 256,
        timeout: float = 60.0,
        attempts: int = ATTEMPTS,
        trust_remote_code: bool = False,
    ) -> None:
        urls = [base_url] if isinstance(base_url, str) else list(base_url)
        self.tokenizer, self.eos = _tokenizer_and_ends(tokenizer, trust_remote_code)
        self.codec, self.prompts = TextCodec(self.tokenizer), PromptEncoder(self.tokenizer)
        self.vocabulary = Vocabulary(self.tokenizer, self.eos) if has_tags(self.tokenizer) else None
        self.positions, self.max_batch = CONTIGUOUS, max_batch
        self.constrained = self.unique_topics = False  # the server's sampler follows no grammar
        self._urls = urls
        self._remote = RemoteScheduler(
            CompletionServer(urls, model, api_key or os.environ.get(KEY), timeout=timeout, attempts=attempts),
            max_batch,
            max_streams=max_streams,
        )
        self._steps = StepLock()
        try:
            longest = self._remote.longest()
        except BaseException:
            self._remote.close()
            raise
        # A token that nothing comes after takes no slot of a cache, but counts for a server.
        self.max_model_len = min(filter(None, (max_model_len, longest and longest - 1)), default=None)

    @property
    def window(self) -> int | None:
        """See :class:`~pastalm.runtime.engine.Engine`; here it is a limit of length, not of positions."""
        return None

    @property
    def device(self) -> str:
        """The server's address."""
        return ", ".join(self._urls)

    @property
    def dtype(self) -> str:
        """Empty: the server does not say."""
        return ""

    @property
    def known_tokens(self) -> int:
        """The server knows what its model can write; the tokenizer is taken at its word."""
        return len(self.tokenizer)

    @property
    def cache_bytes(self) -> int:
        """0: the cache is the server's."""
        return 0

    def request(self, prompt: Prompt, **options: Any) -> Sequence:
        """See :class:`~pastalm.runtime.engine.Engine`. Raises :class:`RequestError` for what needs logits, too."""
        wanted = options | {"logprobs": options.get("logprobs") is not None}  # 0 asks for those of the text's tokens
        asked = next((name for name in NEED_LOGITS if wanted.get(name)), None)
        if asked:
            raise RequestError(f"A completion server shows no logits: {asked} has nothing to work on there.")
        return super().request(prompt, **options)

    def replay_request(self, *_: Any, **__: Any) -> NoReturn:
        """Raises :class:`RequestError`: the tokens of a completion are the server's."""
        raise RequestError("A completion server chooses its tokens by itself: a known answer cannot be replayed there.")

    @property
    def defaults(self) -> dict[str, float]:
        """None: a server's model does not tell how it wants its tokens to be drawn."""
        return {}

    def policy(self, asked: str | None = None) -> PositionPolicy:
        """Positions are the server's. Raises :class:`RequestError` for others."""
        if asked not in (None, CONTIGUOUS):
            raise RequestError(f"A completion server knows the positions {CONTIGUOUS!r} only, not {asked!r}.")
        return position_policy(CONTIGUOUS)

    def scheduler(self, max_batch: int, max_model_len: int, max_batch_threads: int | None = None) -> Any:
        """The one scheduler there is: it holds the connections. Raises :class:`RequestError` for a number of threads
        in a step: steps are the server's."""
        if max_batch_threads is not None:
            raise RequestError("A completion server shapes its own steps: max_batch_threads says nothing there.")
        self._remote.max_batch = max_batch
        return self._remote

    def release(self) -> None:
        """Close all connections. What is running ends with :class:`RemoteError`, and so does whatever is asked
        afterwards."""
        self._remote.close()

    def _scheduler_for(self, sequences: Any, max_batch: int) -> Any:
        return self.scheduler(max(max_batch, self._remote.max_batch), 0)


def _tokenizer_and_ends(
    given: PreTrainedTokenizerBase | str, trust_remote_code: bool
) -> tuple[PreTrainedTokenizerBase, frozenset[int]]:
    """The tokenizer, and the tokens that end an answer by it and by what else lies beside it."""
    if not isinstance(given, str):
        return given, frozenset(end_tokens(given))
    trained, tokenizer = trained_positions(given), load_tokenizer(given, trust_remote_code=trust_remote_code)
    if trained not in (None, CONTIGUOUS):
        _log.warning("The model was trained with the positions %r, but those of a server are contiguous.", trained)
    return tokenizer, frozenset(end_tokens(tokenizer, load_generation_config(given)))

"""Loading models and tokenizers for a command, without a word from the libraries."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from pastalm.cli.options import BUNDLED

if TYPE_CHECKING:
    from pastalm.runtime.engine import Engine


class NoModelError(ValueError):
    """A model or tokenizer that is not there, and what to do."""


@contextmanager
def working(message: str, *, line: bool = False) -> Iterator[None]:
    """A spinner on stderr while something takes its time; where stderr is no terminal nothing, or with ``line`` the
    message as a line."""
    console = Console(stderr=True)
    if line and (console.is_dumb_terminal or not console.is_terminal):
        console.print(Text(message), soft_wrap=True)
    with console.status(Text(message)):
        yield


def hush() -> None:
    """Keep the libraries' progress bars, advice and warnings off the terminal."""
    warnings.filterwarnings("ignore", module=r"(torch|transformers|huggingface_hub)\b")
    os.environ.setdefault("TQDM_DISABLE", "1")  # GGUF files are unpacked under a bar that nothing else turns off
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    hub_logging.set_verbosity_error()


def load_engine(
    model: str,
    device: str,
    dtype: str,
    remote: Sequence[str] | None = None,
    *,
    trust_remote_code: bool = False,
    **options: Any,
) -> Engine:
    """An engine, with these options of its own, for a directory, a hub id or the bundled model; with ``remote``, for
    the completion servers at these URLs, of whose model only the tokenizer is loaded."""
    with working(f"Loading {model} .."):
        if model == BUNDLED:
            _require_bundled("model", "config.json", "--model")
        hush()
        from pastalm.runtime.engine import Engine

        if remote:
            if any(options.pop(name, None) for name in ("compile", "quantize")):
                raise NoModelError("--compile and --quantize are about a model here, not about one behind --remote.")
            return Engine.remote(remote, None, model, trust_remote_code=trust_remote_code, **options)
        return Engine.from_pretrained(model, device, dtype, trust_remote_code=trust_remote_code, **options)


def name_of(model: str) -> str:
    """What to call a model: the last part of its folder as it is named, a link not followed; or all of a hub id."""
    place = Path(model)
    if not place.is_dir():
        return model
    return place.name if place.name not in ("", "..") else place.resolve().name


def load_tokenizer(name: str, trust_remote_code: bool = False) -> Any:
    """The fast tokenizer of a directory, a hub id or the bundled model, with PASTA's tags. Loads no model.

    A tokenizer without the tags gets them: any can count the tokens of an annotated answer.
    """
    if name == BUNDLED:
        _require_bundled("tokenizer", "tokenizer.json", "--tokenizer")
    with working(f"Loading the tokenizer of {name} .."):
        hush()
        from pastalm.lang.tokenizer import add_tags
        from pastalm.runtime.load import load_tokenizer as load

        tokenizer = load(name, trust_remote_code=trust_remote_code)
        add_tags(tokenizer)
        return tokenizer


def _require_bundled(what: str, file: str, option: str) -> Path:
    place = Path(str(files("pastalm") / "bundled"))
    if not (place / file).is_file():
        raise NoModelError(f"This installation has no bundled {what}: name one with {option} DIRECTORY or a hub id.")
    return place

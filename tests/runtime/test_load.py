"""Why a model cannot be loaded, in one sentence."""

from __future__ import annotations

from pathlib import Path

from pastalm.runtime.load import LONGEST_REASON, unloadable


def test_what_was_meant_is_named(tmp_path: Path):
    offline = OSError("We couldn't connect to 'https://huggingface.co' to load the files.\nCheck your connection ..")
    assert unloadable("model", "nomodel", offline).startswith("There is no directory nomodel, and the hub")
    assert "couldn't connect" in unloadable("model", str(tmp_path), offline)
    said = unloadable("tokenizer", str(tmp_path), ValueError("Couldn't instantiate:\n\n(1) a file\n" + "x" * 999))
    assert "Couldn't instantiate: (1) a file" in said and len(said) < LONGEST_REASON + len(str(tmp_path)) + 80
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "holds an adapter alone" in unloadable("model", str(tmp_path), offline)

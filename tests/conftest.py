"""What tests share: a tiny tokenizer with PASTA's tags, its vocabulary, a tiny random model, hypothesis settings."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries are imported: no test waits for a network
if not os.path.exists("/dev/nvidiactl"):
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported: kernels run without a GPU
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes share the cores

import pytest
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pastalm.lang.tokenizer import add_tags
from pastalm.lang.vocabulary import Vocabulary

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]

settings.register_profile(
    "tests", deadline=None, max_examples=60, derandomize=True, database=None, suppress_health_check=SLOW
)
settings.register_profile("search", deadline=None, max_examples=1000, database=None, suppress_health_check=SLOW)
settings.load_profile("tests")  # --hypothesis-profile=search looks further


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--device cuda`` runs the equivalences of the runtime there."""
    parser.addoption("--device", default="cpu", help="where the models of tests/runtime/test_families.py run")


@pytest.fixture(autouse=True)
def plain_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """dtype "auto" is float32 on every machine: equivalences hold exactly there, and tests mean the same."""
    monkeypatch.setattr("pastalm.runtime.device.multiplies_bfloat16", lambda: False)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """Where models run."""
    return request.config.getoption("--device")


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: <eos>, all bytes, and merges of one line. Letters not in it, like x y z, stay single."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["hello world foo bar 12 34"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that knows the tags."""
    tokenizer = byte_level_tokenizer()
    add_tags(tokenizer)
    return tokenizer


@pytest.fixture(scope="session")
def vocabulary(tokenizer: PreTrainedTokenizerFast) -> Vocabulary:
    """Its vocabulary."""
    return Vocabulary(tokenizer)


@pytest.fixture(scope="session")
def tiny_llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Two random layers with two query heads to each key head."""
    import torch

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=None,
        pad_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config).eval()

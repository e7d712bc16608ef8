"""Small tokenizers of every layout that decoder-only models have: byte fallback, byte level, words; and texts of many
scripts for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pastalm.lang.tokenizer import add_tags

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'\"<>/=&*()-_#\n\t"
MERGES = ["▁ t", "▁t h", "▁th e", "e r", "▁ f", "o o", "▁f oo", '= "', '=" >', "< /", "1 2", "▁ 1"]
CORPUS = [
    'the "length" formula <b>foo</b> a < b > c, 12 34 x="1" 100 2024',
    "서울 날씨 東京 天気 ภาษาไทย العربية привет мир naïve café 😀👍 ελληνικά",
] * 3
DIGITS_ALONE = r"\d|[^\s\d]+|\s+"


def _wrapped(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _fallback_bpe() -> Tokenizer:
    """Merges over single letters, and bytes for all others, as sentencepiece writes them."""
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in MERGES)]
    names = [*SPECIAL, *BYTES, "▁", *LETTERS, *(left + right for left, right in pairs)]
    names += ["é", "날"]  # one of its letters is a piece, others are bytes
    vocabulary = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return Tokenizer(models.BPE(vocabulary, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))


def _fallback_decoder(*more: decoders.Decoder) -> decoders.Decoder:
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *more])


def llama2() -> Tokenizer:
    """Llama 2, TinyLlama and Phi-3: a space is written before every text and stripped from every decoded one."""
    backend = _fallback_bpe()
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = _fallback_decoder(decoders.Strip(" ", 1, 0))
    return backend


def mistral() -> Tokenizer:
    """Mistral's newer layout: the space before the first word only."""
    backend = _fallback_bpe()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = _fallback_decoder(decoders.Strip(" ", 1, 0))
    return backend


def gemma() -> Tokenizer:
    """Gemma: no space is added; some runs of line breaks, and tags of HTML, are added tokens that are not special."""
    backend = _fallback_bpe()
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = _fallback_decoder()
    backend.add_tokens(["\n\n", "<table>", "the", "7"])
    return backend


def unigram() -> Tokenizer:
    """Unigram pieces with bytes for all other letters."""
    table = [(name, 0.0) for name in SPECIAL] + [(name, -9.0) for name in BYTES]
    table += [("▁", -2.0), ("▁foo", -1.5), ("foo", -1.5), ("12", -1.5), ('="', -1.5), ("東", -3.0)]
    table += [(letter, -3.0) for letter in LETTERS]
    backend = Tokenizer(models.Unigram(table, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always"), decoders.Fuse()]
    )
    return backend


def unigram_without_bytes() -> Tokenizer:
    """Unigram pieces with nothing for other letters than its own."""
    table = [(name, 0.0) for name in SPECIAL]
    table += [("▁", -2.0), ("▁foo", -1.5), ("서", -2.0)] + [(letter, -3.0) for letter in LETTERS]
    backend = Tokenizer(models.Unigram(table, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    return backend


def _byte_level(splitter: pre_tokenizers.PreTokenizer | None = None) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=splitter is None)
    backend.pre_tokenizer = own if splitter is None else pre_tokenizers.Sequence([splitter, own])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def gpt2() -> Tokenizer:
    """GPT-2: pieces of several digits, with a space, with quotes; letters of other scripts in parts of their bytes."""
    return _byte_level()


def llama3() -> Tokenizer:
    """Llama 3 and Qwen: split by a rule of its own, each digit alone."""
    return _byte_level(pre_tokenizers.Split(Regex(DIGITS_ALONE), "isolated"))


def unsplit() -> Tokenizer:
    """Byte level without any rule: pieces run over words, quotes and digits."""
    return _byte_level(pre_tokenizers.Split(Regex(r"\n"), "isolated"))


def words() -> Tokenizer:
    """Whole words joined by spaces, each digit alone."""
    names = [*SPECIAL, *"0123456789", "foo", "bar", "length", "formula", "서울", "=", ",", "<", '"']
    backend = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)])
    return backend


def word_pieces() -> Tokenizer:
    """Words in pieces, those inside a word marked by ``##``."""
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789", *(f"##{one}" for one in "abcdefghijklmnopqrstuvwxyz0123456789")]
    names = [*SPECIAL, *letters, "foo", "##ula", "len", "##gth", "서울"]
    backend = Tokenizer(models.WordPiece({name: place for place, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    return backend


EXACT: dict[str, Callable[[], Tokenizer]] = {
    build.__name__: build for build in (llama2, mistral, gemma, unigram, gpt2, llama3, unsplit)
}  # any text comes back from them
LOSSY: dict[str, Callable[[], Tokenizer]] = {
    build.__name__: build for build in (unigram_without_bytes, words, word_pieces)
}


@cache
def tagged(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of this kind, with the tags."""
    tokenizer = _wrapped((EXACT | LOSSY)[kind]())
    add_tags(tokenizer)
    return tokenizer


def untagged(kind: str) -> PreTrainedTokenizerFast:
    """A fresh tokenizer of this kind, without them."""
    return _wrapped((EXACT | LOSSY)[kind]())


_SCRIPTS = "서울 날씨 東京 天気予報 กรุงเทพ العربية привет naïve café 😀 👩\u200d👧 🇯🇵 Ελλάδα हिन्दी ẞ \u00ad \ufffd"
_WORDS = f"{_SCRIPTS} length formula foo the x=1 O'Neil 12 7th C++ a&b €5".split(" ")
topic_words = st.sampled_from(_WORDS) | st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"], exclude_characters='"<>'), min_size=1, max_size=4
)
topics = st.lists(topic_words, min_size=1, max_size=3).map(" ".join)
texts = st.lists(
    st.sampled_from(_WORDS) | st.sampled_from([" ", "\n\n", "  ", ' "x" ', "<b>", "</b>", " 1", "<table>", "<0xEC>"]),
    max_size=6,
).map("".join) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)

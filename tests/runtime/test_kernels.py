"""Our own products against the arithmetic written out; and what happens where they cannot be built."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from pastalm.runtime import kernels
from pastalm.runtime.narrow import NarrowLinear, multiply, narrow
from pastalm.runtime.quantize import Int8Linear, packed, quantize
from tests.runtime.families import tiny


def has_unit(dtype: torch.dtype) -> bool:
    """Whether the processor has a matrix unit for numbers of a type."""
    head = torch.empty(1, 1, 1, 32, dtype=dtype)
    return torch.ops.pastalm.attends_in_tiles(head, head, head)


needed = pytest.mark.usefixtures("built")


@needed
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 33, 128, 129])
@pytest.mark.parametrize("inputs, size", [(16, 1), (64, 7), (576, 193), (24, 5)])
def test_a_product_is_the_arithmetic(dtype: torch.dtype, rows: int, inputs: int, size: int) -> None:
    """Also for inputs that are no whole vectors, which go the other way."""
    torch.manual_seed(0)
    layer = nn.Linear(inputs, size).to(dtype)
    x = torch.randn(rows, 2 * inputs).to(dtype)[:, ::2]
    loose = 1e-5 if dtype is torch.float32 else 2e-2
    with torch.inference_mode():
        found = multiply(x, layer.weight, None, layer.weight, layer.bias)
        torch.testing.assert_close(found, layer(x), atol=loose, rtol=loose)
        many = layer.weight.clone().zero_()
        shown = multiply(x, layer.weight, None, many, None)
    few = 0 < rows <= (128 if dtype is torch.float32 else 8) and inputs % 16 == 0
    unit = 1 < rows <= 32 and inputs % 32 == 0 and size >= 16 and has_unit(dtype)
    assert bool(shown.any()) == (few or unit), "few rows are multiplied as they lie"


@needed
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 5, 8, 9, 20, 32, 33])
@pytest.mark.parametrize("inputs, size", [(64, 50), (96, 16), (192, 100)])
def test_int8_is_multiplied_as_it_is(dtype: torch.dtype, rows: int, inputs: int, size: int) -> None:
    """Also for inputs and outputs that fill no whole tiles, and for inputs of which one is far larger than the rest."""
    torch.manual_seed(0)
    layer = nn.Linear(inputs, size).to(dtype)
    own, plain = Int8Linear(layer, kernel=True), Int8Linear(layer)
    x = torch.randn(1, rows, inputs).to(dtype)
    x[..., 3] *= 100
    expected = x.float() @ (plain.rounded.float() * plain.scale.float()[:, None]).T + layer.bias.float()
    close = (4e-3, 1e-5) if dtype is torch.float32 else (3e-2, 2e-2)
    with torch.inference_mode():
        torch.testing.assert_close(own(x).float(), expected, atol=close[0], rtol=close[1])
        if rows <= 8 or (rows <= 32 and has_unit(torch.bfloat16)):
            own.many.weight.zero_()
            torch.testing.assert_close(own(x).float(), expected, atol=close[0], rtol=close[1])


def test_a_packed_weight_holds_each_number_once() -> None:
    weight = torch.arange(1, 121, dtype=torch.int8).reshape(20, 6)
    found = packed(weight)
    assert found.shape == (2, 1, 16, 16, 4) and found.is_contiguous()
    assert [found[o // 16, 0, i // 4, o % 16, i % 4] for o in range(20) for i in range(6)] == weight.flatten().tolist()
    assert found.count_nonzero() == weight.numel()


def product_of(kind: torch.dtype, rows: int, inputs: int, sizes: tuple[int, ...]) -> tuple[Any, ...]:
    """What ``linears`` takes."""
    torch.manual_seed(0)
    dtype = torch.float32 if kind == torch.float32 else torch.bfloat16
    layers = [nn.Linear(inputs, size, bias=False).to(dtype) for size in sizes]
    x, many = torch.randn(rows, inputs).to(dtype), [layer.weight.detach() for layer in layers]
    if kind != torch.int8:
        return x, many, [], many
    own = [Int8Linear(layer, kernel=True) for layer in layers]
    return x, [one.rounded for one in own], [one.scale for one in own], [one.weight for one in own]


@needed
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("rows", [1, 2, 8, 15, 16, 17, 32, 33, 65])
def test_products_side_by_side(kind: torch.dtype, rows: int) -> None:
    """In sizes that a matrix unit takes, where the processor has one, and in others."""
    for inputs, sizes in ((64, (48, 16)), (160, (16, 17, 32)), (32, (16,)), (64, (20, 16)), (64, (70, 5))):
        x, weights, scales, many = product_of(kind, rows, inputs, sizes)
        with torch.inference_mode():
            found = torch.ops.pastalm.linears(x, weights, scales, many)
            expected = torch.cat([x.float() @ weight.float().T for weight in many], 1)
        torch.testing.assert_close(found.float(), expected, atol=1e-5 if kind == torch.float32 else 3e-2, rtol=2e-2)


def attention_of(
    dtype: torch.dtype, width: int, queries: int, slots: int, heads: int = 4, shared: int = 2
) -> dict[str, Any]:
    """What ``attend_few`` takes: query heads and key heads of a sequence whose queries see all slots."""
    make = torch.Generator().manual_seed(0)
    given, kept = (1, shared, queries, width), (1, slots, shared, width)
    query, key, value, keys, values = (
        torch.randn(size, generator=make).to(dtype) for size in ((1, heads, queries, width), given, given, kept, kept)
    )
    own = {"query": query, "key": key, "value": value, "keys": keys, "values": values}
    own |= {"slots": torch.arange(queries), "places": torch.arange(queries), "read": torch.zeros(1, dtype=torch.long)}
    return own | {"visible": torch.ones(1, 1, queries, slots, dtype=torch.bool), "scaling": width**-0.5}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads of the processor torch has, until the test is over."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needed
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("rows", [1, 8, 40])
@torch.inference_mode()
def test_threads_share_a_product(kind: torch.dtype, rows: int, threads: Callable[[int], None]) -> None:
    given, found = product_of(kind, rows, 512, (2050, 70)), []
    for number in (1, 3):
        threads(number)
        found.append(torch.ops.pastalm.linears(*given))
    torch.testing.assert_close(*found, atol=0, rtol=0)
    close = 1e-5 if kind == torch.float32 else 3e-2
    torch.testing.assert_close(found[0], given[0] @ torch.cat(given[3]).T, atol=close, rtol=close)


@needed
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries, heads, shared", [(1, 4, 2), (8, 4, 2), (1, 9, 3), (2, 7, 1)])
@torch.inference_mode()
def test_threads_share_attention(
    dtype: torch.dtype, queries: int, heads: int, shared: int, threads: Callable[[int], None]
) -> None:
    """By queries, and by the heads of a query, whose bounds need not be those of a key head."""
    given, found = attention_of(dtype, 64, queries, 2048, heads, shared), []
    for number in (1, 3):
        threads(number)
        found.append(torch.ops.pastalm.attend_few(**given))
    torch.testing.assert_close(*found, atol=0, rtol=0)
    assert found[0].isfinite().all() and found[0].any()


@needed
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [2, 9])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@torch.inference_mode()
def test_int8_hides_no_wrong_input(dtype: torch.dtype, rows: int, wrong: float) -> None:
    own, x = Int8Linear(nn.Linear(96, 50).to(dtype), kernel=True), torch.randn(rows, 96).to(dtype)
    x[1, 7] = wrong
    found = own(x).isfinite()
    assert found[0].all() and found[2:].all() and not found[1].any()


ways_to_attend = pytest.mark.parametrize(
    "dtype, width", [(torch.float32, 16), (torch.bfloat16, 16), (torch.bfloat16, 64)]
)


@needed
@ways_to_attend
@torch.inference_mode()
def test_attention_hides_no_wrong_score(dtype: torch.dtype, width: int) -> None:
    """And a slot that a query does not see does it no harm."""
    given = attention_of(dtype, width, queries=3, slots=64)
    given["keys"][0, 40] = float("nan")
    given["visible"][0, 0, 1, 40] = False
    found = torch.ops.pastalm.attend_few(**given)[0]
    assert found[[0, 2]].isnan().all() and found[1].isfinite().all()


@needed
@ways_to_attend
@torch.inference_mode()
def test_a_query_that_sees_nothing_takes_nothing(dtype: torch.dtype, width: int) -> None:
    given = attention_of(dtype, width, queries=3, slots=64)
    expected = torch.ops.pastalm.attend_few(**given)[0]
    expected[1] = 0
    given["visible"][0, 0, 1] = False
    torch.testing.assert_close(torch.ops.pastalm.attend_few(**given)[0], expected, atol=1e-6, rtol=0)
    given["visible"].zero_()
    assert not torch.ops.pastalm.attend_few(**given).any()


@needed
@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda x, weights, scales, many: (x, weights, scales, many[:1]), "2 weights, 2 scales, and 1 weights"),
        (lambda x, weights, scales, many: (x, weights, scales[:1], many), "2 weights, 1 scales, and 2 weights"),
        (lambda x, weights, scales, many: (x, [], [], []), "0 weights"),
        (lambda x, weights, scales, many: (x.double(), weights, scales, many), "that lies as"),
        (lambda x, weights, scales, many: (x, weights, [scales[0], scales[1][:-1]], many), "that lies as"),
        (lambda x, weights, scales, many: (x, weights, [scales[0], scales[1].bfloat16()], many), "that lies as"),
        (lambda x, weights, scales, many: (x, [weights[0], weights[1].short()], scales, many), "Short"),
        (lambda x, weights, scales, many: (x, [weights[0], weights[1].flatten()], scales, many), "lies as .1024."),
        (lambda x, weights, scales, many: (x, weights, [], many), "that lies as"),
        (lambda x, weights, scales, many: (x[:, :32], weights, scales, many), r"\[2, 32\]"),
        (lambda x, weights, scales, many: (x[0], weights, scales, many), r"\[64\]"),
    ],
)
def test_what_does_not_fit_together_is_refused(spoil: Callable[..., Any], said: str) -> None:
    given = product_of(torch.int8, 2, 64, (20, 16))
    torch.ops.pastalm.linears(*given)
    with pytest.raises(RuntimeError, match=said):
        torch.ops.pastalm.linears(*spoil(*given))


@needed
@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda given: {"key": given["key"].repeat(1, 2, 1, 1)}, r"keys of \[1, 4, 2, 64\]"),
        (lambda given: {"value": given["value"][..., :32]}, r"values of \[1, 2, 2, 32\]"),
        (lambda given: {"query": given["query"][..., :32]}, r"Queries of \[1, 4, 2, 32\]"),
        (lambda given: {"query": given["query"][:, :3]}, r"Queries of \[1, 3, 2, 64\]"),
        (lambda given: {"query": given["query"][0]}, "four dimensions"),
        (lambda given: {"slots": given["slots"][:1]}, "1 slots"),
        (lambda given: {"places": given["places"].repeat_interleave(2)[::2]}, "seen as"),
        (lambda given: {"visible": given["visible"].repeat(1, 1, 1, 2)}, "seen as"),
        (lambda given: {"keys": given["keys"].bfloat16()}, "BFloat16"),
    ],
)
def test_attention_that_does_not_fit_is_refused(spoil: Callable[..., Any], said: str) -> None:
    given = attention_of(torch.float32, 64, 2, slots=32)
    torch.ops.pastalm.attend_few(**given)
    with pytest.raises(RuntimeError, match=said):
        torch.ops.pastalm.attend_few(**(given | spoil(given)))


@needed
def test_a_matrix_unit_is_left_as_it_was() -> None:
    """torch's own products, which use it too and do not look again, go on between ours."""
    torch.manual_seed(0)
    x, weight = (torch.randn(size).to(torch.bfloat16) for size in ((24, 256), (256, 256)))
    with torch.inference_mode():
        expected = x @ weight
        for _ in range(3):
            torch.ops.pastalm.linears(x, [weight], [], [weight])
            torch.testing.assert_close(x @ weight, expected, atol=0, rtol=0)


@needed
def test_a_model_with_them_gives_the_same_logits_and_learns_as_before(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("llama", len(tokenizer))
    plain = copy.deepcopy(model)
    narrow(model, kernel=True)
    assert all(layer.kernel for layer in model.modules() if isinstance(layer, NarrowLinear))
    ids = torch.tensor([[3, 5, 8, 13]])
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, plain(ids).logits, atol=1e-5, rtol=1e-4)
    model(ids).logits.sum().backward()
    assert model.lm_head.weight.grad is not None


@needed
def test_a_quantised_model_is_multiplied_by_them(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("llama", len(tokenizer))
    quantize(model, "int8")
    assert all(layer.kernel for layer in model.modules() if isinstance(layer, Int8Linear))


def test_it_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a compiler that counts: a script around the real one."""
    monkeypatch.setattr(kernels, "CACHE", tmp_path / "cache")
    compiler = counting(tmp_path)
    first, again = kernels._built(compiler), kernels._built(compiler)
    assert first == again and first.exists() and builds(tmp_path) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [first.name]
    counting(tmp_path, version="2")
    assert kernels._built(compiler) != first and builds(tmp_path) == 2


def test_a_damaged_library_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "CACHE", tmp_path / "cache")
    compiler = counting(tmp_path)
    kernels._built(compiler).write_bytes(b"")
    kernels._load(compiler)
    kernels._load(compiler)
    assert builds(tmp_path) == 2


def counting(folder: Path, version: str = "1") -> list[str]:
    """A compiler that counts what it builds: empty libraries."""
    made = folder / "compiler"
    made.write_text(
        f'#!/bin/sh\n[ "$*" = --version ] && echo {version} && exit\necho x >> {folder / "count"}\n'
        'for word; do case "$last" in -o) c++ -shared -fPIC -x c++ /dev/null -o "$word";; esac; last=$word; done\n'
    )
    made.chmod(0o755)
    return [str(made)]


def builds(folder: Path) -> int:
    return len((folder / "count").read_text().split())


@pytest.mark.parametrize(
    "compiler, said",
    [("false", "false fails"), ("/no/where/c++", "No such file"), ('c++ "', "No closing quotation")],
)
def test_without_a_compiler_it_says_so_and_goes_on(
    compiler: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernels, "CACHE", tmp_path)
    monkeypatch.setenv("CXX", compiler)
    with caplog.at_level(logging.WARNING):
        assert not kernels.load_kernels.__wrapped__()
    assert said in caplog.text and "torch's own are used" in caplog.text


def test_without_a_home_folder_it_says_so_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernels, "CACHE", Path("~nobody-of-this-name/kernels"))
    monkeypatch.setenv("CXX", "true")
    with caplog.at_level(logging.WARNING):
        assert not kernels.load_kernels.__wrapped__()
    assert "home directory" in caplog.text and "torch's own are used" in caplog.text

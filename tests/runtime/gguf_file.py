"""Tiny GGUF files, written with the package `gguf` as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

CHAT = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(
    path: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, quantised: bool = False
) -> None:
    """Write a Llama and its byte-level tokenizer; matrices are float32, or in blocks of 32 eight-bit numbers."""
    import gguf

    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer, config.vocab_size)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = _permuted(name, weight, model).float().numpy()
        if quantised and array.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(_gguf_name(name), gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(_gguf_name(name), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer, tokenizer: PreTrainedTokenizerFast, size: int) -> None:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.get_added_vocab().values())
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*tokens, *(f"[unused{n}]" for n in range(size - len(tokens)))])
    writer.add_token_types([3 if i in special or i >= len(tokens) else 1 for i in range(size)])
    writer.add_token_merges([" ".join(pair) for pair in state["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.eos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(CHAT)


def _gguf_name(name: str) -> str:
    if name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        return {"m": "token_embd", "l": "output"}[name[0]] + ".weight" if "norm" not in name else "output_norm.weight"
    _, _, layer, *inner, _ = name.split(".")
    return f"blk.{layer}.{NAMES['.'.join(inner)]}.weight"


def _permuted(name: str, weight: Tensor, model: LlamaForCausalLM) -> Tensor:
    """Llama's query and key rows as llama.cpp wants them: the two halves of a head interleaved."""
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = next((heads[part] for part in heads if part in name), None)
    if count is None:
        return weight
    rows, width = weight.shape
    return weight.reshape(count, 2, rows // count // 2, width).swapaxes(1, 2).reshape(rows, width)

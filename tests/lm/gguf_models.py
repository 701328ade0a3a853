"""Write tiny models as GGUF files the way llama.cpp's converter does (used by the tests only)."""

import gguf
import numpy as np

from tests.conftest import tiny_tokenizer

F32 = gguf.GGMLQuantizationType.F32
LLAMA_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
GEMMA3_NAMES = {
    **LLAMA_NAMES,
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "pre_feedforward_layernorm.weight": "ffn_norm.weight",
    "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
}
GPT2_NAMES = {
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def permute(w, heads):
    """llama.cpp's LlamaModel.permute, copied: Hugging Face halves → interleaved pairs."""
    return (
        w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)
    )


def add_tokenizer(writer, tokenizer=None):
    fast = tokenizer or tiny_tokenizer()
    vocab = fast.get_vocab()
    tokens = sorted(vocab, key=vocab.get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i < 3 else 1 for i in range(len(tokens))])
    import json

    merges = json.loads(fast.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(m) for m in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add(writer, name, value, kind=F32):
    """Add a tensor, quantised when it is a matrix; returns the values a reader should see."""
    value = np.ascontiguousarray(value, np.float32)
    if value.ndim < 2 or kind == F32:
        writer.add_tensor(name, value)
        return value
    packed = gguf.quants.quantize(value, kind)
    raw = kind if kind not in (gguf.GGMLQuantizationType.F16,) else None
    writer.add_tensor(name, packed, raw_dtype=raw)
    return np.asarray(gguf.quants.dequantize(packed, kind), np.float32)


def write_llama(path, config, state, kind=F32, rope_freqs=None, drop=(), tokenizer=True):
    """`state`: Hugging Face names → float32 arrays. Returns the state after quantisation."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.head_dim)
    if tokenizer:
        add_tokenizer(writer)
    seen = {}
    for name, value in state.items():
        short = name.removeprefix("model.")
        stored = {
            "embed_tokens.weight": "token_embd.weight",
            "norm.weight": "output_norm.weight",
            "lm_head.weight": "output.weight",
        }.get(short)
        if stored is None:
            _, layer, rest = short.split(".", 2)
            stored = f"blk.{layer}.{LLAMA_NAMES[rest]}"
        if stored in drop:
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        n = next((h for part, h in heads.items() if part in name), None)
        out = add(writer, stored, value if n is None else permute(value, n), kind)
        if n is not None:  # a slow inverse of `permute`, row by row
            rows = np.empty_like(out)
            rows[permute(np.arange(len(out)), n)] = out
            out = rows
        seen[name] = out
    if rope_freqs is not None:
        writer.add_tensor("rope_freqs.weight", np.asarray(rope_freqs, np.float32))
    finish(writer)
    return seen


def write_gpt2(path, config, state, kind=F32):
    """GPT-2 with a tied head. Returns the state after quantisation."""
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    add_tokenizer(writer)
    seen = {}
    for name, value in state.items():
        short = name.removeprefix("transformer.")
        if short == "lm_head.weight":
            continue
        module, suffix = short.rsplit(".", 1)
        stored = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}.get(module)
        if stored is None:
            _, layer, rest = module.split(".", 2)
            stored = f"blk.{layer}.{GPT2_NAMES[rest]}"
        conv1d = value.ndim == 2 and stored.startswith("blk")
        out = add(writer, f"{stored}.{suffix}", value.T if conv1d else value, kind)
        seen[name] = out.T if conv1d else out
    finish(writer)
    return seen


def write_gemma3(path, config, state, **metadata):
    """Gemma 3 with a tied head, as llama.cpp stores it: norm weights with their 1, q and k as they
    are. `metadata`: further gemma3.* integers, numbers or lists of booleans."""
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["full_attention"]["rope_theta"])
    writer.add_sliding_window(config.sliding_window)
    for name, value in metadata.items():
        adders = {float: writer.add_float32, list: writer.add_array, int: writer.add_uint32}
        adders[type(value)](f"gemma3.{name}", value)
    add_tokenizer(writer)
    for name, value in state.items():
        short = name.removeprefix("model.")
        stored = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
        if short == "lm_head.weight":
            continue
        if short not in stored:
            _, layer, rest = short.split(".", 2)
            stored[short] = f"blk.{layer}.{GEMMA3_NAMES[rest]}"
        add(writer, stored[short], value + 1 if short.endswith("norm.weight") else value)
    finish(writer)

"""The network of `tiny_llama` in Hugging Face's format, for vLLM: a folder of 4 MiB, made in a moment without torch."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.contract.engines import tiny_llama
from tests.contract.engines.tiny_llama import CHAT_TEMPLATE, CONTROL, MERGES, Shape

_HEADS: Final = 4
_KEY_HEADS: Final = 2
_NAMES: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def build(folder: Path, name: str = "tiny-hf", shape: Shape | None = None) -> Path:
    """Writes the folder `name` into `folder` unless it stands there."""
    path = folder / name
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    shape = shape or Shape()
    written = Path(tempfile.mkdtemp(dir=folder, suffix=".part"))
    tokens = tiny_llama.vocabulary()
    tensors = {_named(tensor): _turned(tensor, values) for tensor, values in tiny_llama.weights(shape).items()}
    save_file(tensors, written / "model.safetensors", metadata={"format": "pt"})
    _write(written / "config.json", _config(shape, tokens))
    _tokenizer(tokens).save(str(written / "tokenizer.json"))
    special = dict(zip(("eos_token", "bos_token", "pad_token"), CONTROL, strict=True))
    _write(
        written / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": shape.context_tokens,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
            **special,
        },
    )
    written.rename(path)
    return path


def _named(tensor: str) -> str:
    stem = tensor.removesuffix(".weight")
    if not stem.startswith("blk."):
        return f"{_NAMES[stem]}.weight"
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{_NAMES[part]}.weight"


def _turned(tensor: str, values: np.ndarray) -> np.ndarray:
    """GGUF's Llama rotates neighbouring pairs of a head, Hugging Face's its two halves: the rows of queries and keys move."""
    heads = {"attn_q": _HEADS, "attn_k": _KEY_HEADS}.get(tensor.removesuffix(".weight").rpartition(".")[2])
    if heads is None:
        return values
    rows, columns = values.shape
    pairs = values.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


def _config(shape: Shape, tokens: list[str]) -> dict[str, object]:
    end, begin, pad = (tokens.index(token) for token in CONTROL)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(tokens),
        "hidden_size": shape.width,
        "intermediate_size": 2 * shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KEY_HEADS,
        "head_dim": shape.width // _HEADS,
        "max_position_embeddings": shape.context_tokens,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "eos_token_id": end,
        "bos_token_id": begin,
        "pad_token_id": pad,
        "torch_dtype": "float16",
    }


def _tokenizer(tokens: list[str]) -> Tokenizer:
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in MERGES)]
    tokenizer = Tokenizer(models.BPE(vocab={token: place for place, token in enumerate(tokens)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in CONTROL])
    return tokenizer


def _write(path: Path, document: dict[str, object]) -> None:
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")

"""Writes Llama and Qwen2 models from Hugging Face's safetensors as GGUF, with numpy and `gguf`, tensor by tensor."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gguf
import numpy as np

from services.chassis.errors import Failure, Reason
from services.inference.engines import gguf_tokenizer
from services.inference.engines.hf_folder import architecture, config_of, head_length
from services.inference.engines.safetensors_file import SafetensorsFolder

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from services.inference.engines.safetensors_file import Tensor

# Seconds after which there may be room on the disk.
_ROOM_SECONDS: Final = 60.0
_OUTSIDE: Final = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_INSIDE: Final = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def convert(folder: Path, target: Path, told: Callable[[int, int], None], is_abandoned: Callable[[], bool]) -> None:
    """Writes the folder's model as `target`, which stands there whole or not at all.

    Args:
        folder: The model in Hugging Face's format.
        target: The GGUF file to write.
        told: Called with the bytes of weights written, and all of them.
        is_abandoned: Whether nobody wants it any more; asked between two tensors.

    Raises:
        Failure: ENGINE_UNAVAILABLE where the model is damaged or of a kind that is not known, or was abandoned.
        OSError: It cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".part")
    os.close(handle)
    written = Path(name)
    try:
        try:
            _write(folder, written, told, is_abandoned)
        except (ValueError, KeyError, TypeError) as error:
            message = f"model: {folder.name} cannot be converted: {error}"
            raise Failure(Reason.ENGINE_UNAVAILABLE, message, metadata={"model": folder.name}) from error
        written.replace(target)
    finally:
        written.unlink(missing_ok=True)


def room_for(folder: Path, target: Path) -> None:
    """Raises ENGINE_UNAVAILABLE, for now, where the disk has no room for what converting would write."""
    needed = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        message = f"model: {folder.name} needs {needed} bytes on the disk of DATA_DIR to be converted; {free} are free"
        raise Failure(Reason.ENGINE_UNAVAILABLE, message, metadata={"model": folder.name}, retry_after=_ROOM_SECONDS)


def _write(folder: Path, path: Path, told: Callable[[int, int], None], is_abandoned: Callable[[], bool]) -> None:
    config = config_of(folder)
    weights = SafetensorsFolder(folder)
    tensors = _tensors(config, weights)
    factors = _rope_factors(config)
    with closing(gguf.GGUFWriter(path, architecture(config))) as writer:
        _describe(writer, folder.name, config)
        gguf_tokenizer.write(writer, folder, config)
        for name, tensor, _ in tensors:
            kind = gguf.GGMLQuantizationType[tensor.kind] if len(tensor.shape) > 1 else gguf.GGMLQuantizationType.F32
            size = int(np.prod(tensor.shape)) * (4 if kind is gguf.GGMLQuantizationType.F32 else 2)
            writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), size, raw_dtype=kind)
        if factors is not None:
            writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        total, done = sum(tensor.size for _, tensor, _ in tensors), 0
        for _, tensor, heads in tensors:
            if is_abandoned():
                raise Failure(Reason.ENGINE_UNAVAILABLE, f"model: the conversion of {folder.name} was given up")
            writer.write_tensor_data(_values(tensor, heads))
            done += tensor.size
            told(done, total)
        if factors is not None:
            writer.write_tensor_data(factors)


def _describe(writer: gguf.GGUFWriter, name: str, config: dict[str, Any]) -> None:
    heads = int(config["num_attention_heads"])
    writer.add_name(name)
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads", heads)))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    kind = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "bfloat16": "MOSTLY_BF16"}.get(str(config.get("torch_dtype", "")))
    if kind is not None:
        writer.add_file_type(gguf.LlamaFileType[kind])
    writer.add_vocab_size(int(config["vocab_size"]))
    if "head_dim" in config and config["head_dim"] is not None:
        writer.add_key_length(head_length(config))
        writer.add_value_length(head_length(config))
    writer.add_rope_dimension_count(head_length(config))
    writer.add_rope_freq_base(float(_rope(config).get("rope_theta", config.get("rope_theta", 10000.0))))
    kind = _rope_kind(config)
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(_rope(config)["factor"]))


def _tensors(config: dict[str, Any], weights: SafetensorsFolder) -> list[tuple[str, Tensor, int]]:
    """GGUF's name, the tensor, and the number of heads whose rows have to be turned (0 for none)."""
    heads = int(config["num_attention_heads"])
    turned = {}
    if architecture(config) == "llama":
        turned = {"attn_q": heads, "attn_k": int(config.get("num_key_value_heads", heads))}
    found = []
    for name in weights.names():
        if name.endswith("rotary_emb.inv_freq"):
            continue  # older files hold it; it follows from the configuration
        if name == "lm_head.weight" and config.get("tie_word_embeddings", False):
            continue
        if name in _OUTSIDE:
            found.append((_OUTSIDE[name], weights[name], 0))
            continue
        layer, part = _place(name)
        found.append((f"blk.{layer}.{part}.{name.rpartition('.')[2]}", weights[name], turned.get(part, 0)))
    missing = {"token_embd.weight", "output_norm.weight"} - {name for name, _, _ in found}
    if missing:
        raise ValueError(f"its files hold no {min(missing)}")
    return found


def _place(name: str) -> tuple[int, str]:
    begin, _, rest = name.removeprefix("model.layers.").partition(".")
    stem, _, kind = rest.rpartition(".")
    if not name.startswith("model.layers.") or not begin.isdigit() or stem not in _INSIDE or kind not in {"weight", "bias"}:
        raise ValueError(f"the tensor {name} is not known in this architecture")
    return int(begin), _INSIDE[stem]


def _values(tensor: Tensor, heads: int) -> NDArray[Any]:
    """The tensor as GGUF wants it: vectors as float32, and the rows of queries and keys in llama.cpp's order.

    llama.cpp's Llama rotates neighbouring pairs of a head's numbers, Hugging Face's its two halves.
    """
    values = tensor.raw()
    if heads:
        rows = values.shape[0]
        values = values.reshape(heads, 2, rows // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    if len(tensor.shape) == 1 and tensor.kind != "F32":
        return tensor.as_float32(values)
    return np.ascontiguousarray(values)


def _rope_factors(config: dict[str, Any]) -> NDArray[np.float32] | None:
    """Llama 3.1's stretching of low frequencies, as what each is divided by; None where it has none."""
    if _rope_kind(config) != "llama3":
        return None
    rope = _rope(config)
    length = head_length(config)
    base = float(rope.get("rope_theta", config.get("rope_theta", 10000.0)))
    frequencies = base ** -(np.arange(0, length, 2, dtype=np.float64) / length)
    factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = float(rope["original_max_position_embeddings"]) * frequencies / (2 * np.pi)
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    return config.get("rope_scaling") or config.get("rope_parameters") or {}


def _rope_kind(config: dict[str, Any]) -> str:
    rope = _rope(config)
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    if kind not in {"default", "linear", "llama3"}:
        raise ValueError(f"its rope_scaling of type {kind} is not known; default, linear and llama3 are")
    return kind

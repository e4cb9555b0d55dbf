"""A folder with a model in Hugging Face's format: what its config.json says, read without the weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from services.inference.engines.gguf_header import GgufHeader

if TYPE_CHECKING:
    from pathlib import Path

FORMAT: Final = "safetensors"
_ARCHITECTURES: Final = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2"}
_QUANTIZATIONS: Final = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_PARTS: Final = ("*.safetensors", "*.json", "*.model", "*.jinja", "*.txt", "*.md", "LICENSE*", ".gitattributes")


def read_config(folder: Path) -> GgufHeader:
    """What the folder's config.json says of the model. Raises ValueError where it is none that can be written as GGUF."""
    config = config_of(folder)
    kind = architecture(config)
    absent = {"num_hidden_layers", "num_attention_heads", "hidden_size"} - config.keys()
    if absent:
        raise ValueError(f"its config.json says nothing of {min(absent)}")
    heads = head_length(config)
    cache = int(config["num_hidden_layers"]) * int(config.get("num_key_value_heads", config["num_attention_heads"])) * 2 * heads
    return GgufHeader(
        architecture=kind,
        context_tokens=int(config.get("max_position_embeddings", 0)),
        dimensions=int(config["hidden_size"]),
        pooling=0,
        quantization=_QUANTIZATIONS.get(str(config.get("torch_dtype", config.get("dtype", ""))), ""),
        cache_values=cache,
    )


def parts(folder: Path) -> list[Path]:
    """The files of the folder that belong to a model in this format."""
    return sorted({path for pattern in _PARTS for path in folder.glob(pattern) if path.is_file()})


def head_length(config: dict[str, Any]) -> int:
    """Numbers of one attention head."""
    return int(config.get("head_dim") or int(config["hidden_size"]) // int(config["num_attention_heads"]))


def architecture(config: dict[str, Any]) -> str:
    """llama.cpp's name of the architecture. Raises ValueError where it is not one that can be converted."""
    named = [str(name) for name in config.get("architectures") or ()]
    known = next((_ARCHITECTURES[name] for name in named if name in _ARCHITECTURES), "")
    if not known:
        raise ValueError(f"its architecture {', '.join(named) or '(none)'} is not one of {', '.join(_ARCHITECTURES)}")
    if config.get("quantization_config"):
        raise ValueError("its weights are quantized; only float32, float16 and bfloat16 can be read")
    return known


def config_of(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises ValueError where it cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (ValueError, OSError) as error:
        raise ValueError("its config.json cannot be read") from error
    if not isinstance(config, dict):
        raise ValueError("its config.json is not an object")  # noqa: TRY004 - of a file, not of a program
    return config

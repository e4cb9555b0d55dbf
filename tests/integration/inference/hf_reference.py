"""Small Llama and Qwen2 models in Hugging Face's format, and what they compute, by numpy and the papers' formulas."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from tests.contract.engines import tiny_llama, tiny_llama_hf

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WIDTH, INNER, LAYERS, HEADS, KEY_HEADS = 64, 96, 2, 4, 2
LENGTH = WIDTH // HEADS


@dataclass
class Reference:
    """A model: its folder is written by `write`, and `logprobs` is what llama.cpp has to say too."""

    kind: str
    tied: bool = False
    rope: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        draw = np.random.default_rng(11)
        self.tokens = tiny_llama.vocabulary()

        def matrix(rows: int, columns: int) -> NDArray[np.float32]:
            drawn: NDArray[np.float64] = draw.standard_normal((rows, columns)) / np.sqrt(columns)
            return drawn.astype(np.float32)

        def vector(size: int, mean: float) -> NDArray[np.float32]:
            return (mean + 0.2 * draw.standard_normal(size)).astype(np.float32)

        self.tensors["model.embed_tokens.weight"] = matrix(len(self.tokens), WIDTH)
        for layer in range(LAYERS):
            name = f"model.layers.{layer}"
            narrow = KEY_HEADS * LENGTH
            sizes = {
                "self_attn.q_proj": (WIDTH, WIDTH),
                "self_attn.k_proj": (narrow, WIDTH),
                "self_attn.v_proj": (narrow, WIDTH),
            }
            sizes |= {"self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH)}
            sizes |= {"mlp.down_proj": (WIDTH, INNER)}
            for part, (rows, columns) in sizes.items():
                self.tensors[f"{name}.{part}.weight"] = matrix(rows, columns)
                if self.kind == "qwen2" and part[10:] in {"q_proj", "k_proj", "v_proj"}:
                    self.tensors[f"{name}.{part}.bias"] = vector(rows, 0.0)
            for part in ("input_layernorm", "post_attention_layernorm"):
                self.tensors[f"{name}.{part}.weight"] = vector(WIDTH, 1.0)
        self.tensors["model.norm.weight"] = vector(WIDTH, 1.0)
        if not self.tied:
            self.tensors["lm_head.weight"] = matrix(len(self.tokens), WIDTH)

    def write(self, folder: Path, kind: str = "float32") -> Path:
        """Writes the folder, in two files of safetensors, its weights as `kind`."""
        folder.mkdir(parents=True)
        names = sorted(self.tensors)
        for place, part in enumerate((names[::2], names[1::2])):
            _save(folder / f"model-0000{place + 1}-of-00002.safetensors", {name: self.tensors[name] for name in part}, kind)
        end, begin, pad = (self.tokens.index(token) for token in tiny_llama.CONTROL)
        config = {
            "architectures": ["LlamaForCausalLM" if self.kind == "llama" else "Qwen2ForCausalLM"],
            "vocab_size": len(self.tokens),
            "hidden_size": WIDTH,
            "intermediate_size": INNER,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KEY_HEADS,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "tie_word_embeddings": self.tied,
            "eos_token_id": [end],
            "bos_token_id": begin,
            "pad_token_id": pad,
            "torch_dtype": kind,
            **({"rope_scaling": self.rope} if self.rope else {}),
        }
        (folder / "config.json").write_text(json.dumps(config))
        tiny_llama_hf._tokenizer(self.tokens).save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": tiny_llama.CHAT_TEMPLATE}))
        return folder

    def logprobs(self, ids: list[int]) -> NDArray[np.float64]:
        """Of each token, to follow the given ones."""
        weights = {name: tensor.astype(np.float64) for name, tensor in self.tensors.items()}
        seen = weights["model.embed_tokens.weight"][ids]
        angles = np.outer(np.arange(len(ids)), self._frequencies())
        causal = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
        for layer in range(LAYERS):
            name = f"model.layers.{layer}"
            normed = _normed(seen, weights[f"{name}.input_layernorm.weight"])
            query, key, value = (self._heads(weights, f"{name}.self_attn.{part}_proj", normed) for part in "qkv")
            query, key = _turned(query, angles), np.repeat(_turned(key, angles), HEADS // KEY_HEADS, 0)
            looked = _softmax(query @ key.swapaxes(1, 2) / np.sqrt(LENGTH) + causal) @ np.repeat(value, HEADS // KEY_HEADS, 0)
            mixed = looked.swapaxes(0, 1).reshape(len(ids), WIDTH)
            seen = seen + mixed @ weights[f"{name}.self_attn.o_proj.weight"].T
            normed = _normed(seen, weights[f"{name}.post_attention_layernorm.weight"])
            gate = normed @ weights[f"{name}.mlp.gate_proj.weight"].T
            up = normed @ weights[f"{name}.mlp.up_proj.weight"].T
            seen = seen + (gate / (1 + np.exp(-gate)) * up) @ weights[f"{name}.mlp.down_proj.weight"].T
        head = weights["model.embed_tokens.weight" if self.tied else "lm_head.weight"]
        logits: NDArray[np.float64] = _normed(seen, weights["model.norm.weight"])[-1] @ head.T
        told: NDArray[np.float64] = logits - np.log(np.exp(logits).sum())
        return told

    def _heads(self, weights: dict[str, NDArray[np.float64]], name: str, seen: NDArray[np.float64]) -> NDArray[np.float64]:
        made = seen @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", np.float64(0))
        return made.reshape(len(seen), -1, LENGTH).swapaxes(0, 1)

    def _frequencies(self) -> NDArray[np.float64]:
        """Of the rotary embedding, stretched as Llama 3.1 does where it is asked to."""
        plain: NDArray[np.float64] = 10000.0 ** -(np.arange(0, LENGTH, 2) / LENGTH)
        if not self.rope:
            return plain
        if self.rope["rope_type"] == "linear":
            return np.asarray(plain / self.rope["factor"])
        scaled = []
        for frequency in plain:
            wave = 2 * np.pi / frequency
            low = self.rope["original_max_position_embeddings"] / self.rope["low_freq_factor"]
            high = self.rope["original_max_position_embeddings"] / self.rope["high_freq_factor"]
            if wave < high:
                scaled.append(frequency)
            elif wave > low:
                scaled.append(frequency / self.rope["factor"])
            else:
                span = self.rope["high_freq_factor"] - self.rope["low_freq_factor"]
                share = (self.rope["original_max_position_embeddings"] / wave - self.rope["low_freq_factor"]) / span
                scaled.append((1 - share) * frequency / self.rope["factor"] + share * frequency)
        return np.array(scaled)


def _normed(values: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = values / np.sqrt((values**2).mean(-1, keepdims=True) + 1e-6) * weight
    return scaled


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    powers: NDArray[np.float64] = np.exp(scores - scores.max(-1, keepdims=True))
    powers /= powers.sum(-1, keepdims=True)
    return powers


def _turned(heads: NDArray[np.float64], angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hugging Face's layout: a head's first half is turned against its second."""
    first, second = np.split(heads, 2, -1)
    return np.concatenate(
        [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)], -1
    )


def _save(path: Path, tensors: dict[str, NDArray[np.float32]], kind: str) -> None:
    if kind != "bfloat16":
        save_file({name: np.ascontiguousarray(tensor.astype(kind)) for name, tensor in tensors.items()}, path)
        return
    header, data = {}, b""
    for name, tensor in tensors.items():
        upper = (tensor.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(upper)]}
        data += upper
    written = json.dumps(header).encode()
    path.write_bytes(len(written).to_bytes(8, "little") + written + data)

"""A Llama of a few megabytes with random weights and a byte-level tokenizer: real files for real engines, made in a second.

The same arguments give the same bytes. Its text is gibberish of printable ASCII words; it never ends by itself, because no
control token can win, so a generation ends by `max_tokens`, by a stop sequence or by its context.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

CONTROL = ("<|end|>", "<|turn|>", "<|pad|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
# Of the model that calls tools: a place for them, for calls and for what they gave. It begins a call by a token of its own.
CALL = "<tool_call>"
TOOL_TEMPLATE = (
    "{% if tools %}<|turn|>system\nTools:{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n"
    'Call one by <tool_call>\n{"name": NAME, "arguments": ARGUMENTS}</tool_call>.<|end|>\n{% endif %}'
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n"
    "{% if message['content'] %}{{ message['content'] }}{% endif %}"
    "{% if message['tool_calls'] %}{% for call in message['tool_calls'] %}<tool_call>"
    "{\"name\": \"{{ call['function']['name'] }}\", \"arguments\": {{ call['function']['arguments'] | tojson }}}"
    "</tool_call>{% endfor %}{% endif %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
# Enough merges that English costs fewer tokens than bytes and that word pieces, not letters, come out.
MERGES = (
    *("Ġ t", "h e", "Ġt he", "i n", "e r", "Ġ a", "r e", "o n", "Ġ o", "Ġo f", "a n", "Ġa n", "Ġan d", "a t", "e n", "o r"),
    *("Ġ w", "Ġw at", "Ġwat er", "Ġ s", "in g", "e s", "i t", "Ġ i", "Ġi s", "o u", "Ġ p", "Ġ f", "Ġ b", "Ġ c", "a l", "Ġ d"),
    *("a r", "Ġ m", "Ġ in", "o w", "l e", "Ġf l", "Ġfl ow", "Ġ l", "a s", "i c", "e d", "Ġ h", "Ġ re", "a m", "Ġ st", "s t"),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of the network; its width is split over 4 heads. The default has 4 MiB and yields thousands of tokens a second.

    Its seed is one of those whose text does not say the same word over and over.
    """

    width: int = 256
    layers: int = 3
    context_tokens: int = 16384
    seed: int = 6


def build(folder: Path, name: str = "tiny", shape: Shape | None = None, *, embedder: bool = False, tools: bool = False) -> Path:
    """Writes `name`.gguf into `folder` unless it stands there; an `embedder` pools its last layer by mean.

    One with `tools` has a chat template with a place for them, and soon begins a call: the engine's grammar then leads its pen.
    """
    shape = shape or Shape()
    path = folder / f"{name}.gguf"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    handle, written = tempfile.mkstemp(dir=folder, suffix=".part")
    os.close(handle)
    writer = gguf.GGUFWriter(Path(written), "llama")
    _describe(writer, name, shape, template="" if embedder else TOOL_TEMPLATE if tools else CHAT_TEMPLATE)
    _tokenizer(writer, tools=tools)
    for tensor, values in weights(shape, tools=tools).items():
        writer.add_tensor(tensor, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    Path(written).rename(path)
    return path


def _describe(writer: gguf.GGUFWriter, name: str, shape: Shape, *, template: str) -> None:
    writer.add_name(name)
    writer.add_context_length(shape.context_tokens)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(2 * shape.width)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(shape.width // 4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    if template:
        writer.add_chat_template(template)
    else:
        writer.add_pooling_type(gguf.PoolingType.MEAN)


def vocabulary(*, tools: bool = False) -> list[str]:
    """All tokens; the place of each is its id."""
    pieces = (merge.replace(" ", "") for merge in MERGES)
    return [*_byte_letters().values(), *pieces, *CONTROL, *([CALL] if tools else [])]


def _tokenizer(writer: gguf.GGUFWriter, *, tools: bool) -> None:
    tokens = vocabulary(tools=tools)
    kinds = {CALL: gguf.TokenType.USER_DEFINED, **dict.fromkeys(CONTROL, gguf.TokenType.CONTROL)}
    types = [kinds.get(token, gguf.TokenType.NORMAL) for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(tokens.index("<|end|>"))
    writer.add_bos_token_id(tokens.index("<|turn|>"))
    writer.add_pad_token_id(tokens.index("<|pad|>"))
    writer.add_add_bos_token(value=False)


def weights(shape: Shape, *, tools: bool = False) -> dict[str, np.ndarray]:
    """The network's tensors by their names in a GGUF file."""
    tokens = vocabulary(tools=tools)
    tensors: dict[str, np.ndarray] = {}
    draw = np.random.default_rng(shape.seed)
    width, inner, narrow = shape.width, 2 * shape.width, shape.width // 2

    def matrix(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        drawn: np.ndarray = draw.standard_normal((rows, columns)) * scale / np.sqrt(columns)
        return drawn.astype(np.float16)

    tensors["token_embd.weight"] = matrix(len(tokens), width, scale=np.sqrt(width))
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        tensors[f"{block}.attn_norm.weight"] = np.ones(width, np.float32)
        tensors[f"{block}.attn_q.weight"] = matrix(width, width)
        tensors[f"{block}.attn_k.weight"] = matrix(narrow, width)
        tensors[f"{block}.attn_v.weight"] = matrix(narrow, width)
        tensors[f"{block}.attn_output.weight"] = matrix(width, width)
        tensors[f"{block}.ffn_norm.weight"] = np.ones(width, np.float32)
        tensors[f"{block}.ffn_gate.weight"] = matrix(inner, width)
        tensors[f"{block}.ffn_up.weight"] = matrix(inner, width)
        tensors[f"{block}.ffn_down.weight"] = matrix(width, inner)
    tensors["output_norm.weight"] = np.ones(width, np.float32)
    head = matrix(len(tokens), width, scale=6.0)
    head[[not _is_word_piece(token) for token in tokens]] = 0  # a logit of zero among many of +-6 is never chosen
    if tools:
        head[tokens.index(CALL)] = matrix(1, width, scale=24.0)  # in half of all places the likeliest
    tensors["output.weight"] = head
    return tensors


def _is_word_piece(token: str) -> bool:
    letters = token.removeprefix("Ġ")
    return letters.isascii() and (letters.isalnum() or token in {"Ġ", ".", ","})


def _byte_letters() -> dict[int, str]:
    """The letter that stands for each byte in a byte-level vocabulary: itself where printable, else one past U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(rest)}

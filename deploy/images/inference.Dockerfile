# Build from the repository's root: docker build -f deploy/images/inference.Dockerfile -t penstock/inference .
FROM python:3.11-slim-bookworm AS build
RUN pip install --no-cache-dir uv==0.13.8
WORKDIR /app
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
COPY pyproject.toml uv.lock ./
COPY protos/python protos/python
RUN uv sync --frozen --no-default-groups --no-editable --extra inference

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin penstock \
    && install -d -o penstock -g penstock /var/lib/penstock
WORKDIR /app
COPY --from=build /app/.venv .venv
COPY services/__init__.py services/__init__.py
COPY services/chassis services/chassis
COPY services/inference services/inference
ENV PATH=/app/.venv/bin:$PATH GRPC_ENABLE_FORK_SUPPORT=0 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 DATA_DIR=/var/lib/penstock
ENV GRPC_ADDRESS=0.0.0.0:50051 METRICS_ADDRESS=0.0.0.0:9090
EXPOSE 50051 9090
USER 10001:10001
VOLUME /var/lib/penstock
ENTRYPOINT ["python", "-m", "services.inference"]

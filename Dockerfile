# The service and its workers on the CPU; `--build-arg TORCH_BACKEND=cu128` (or another of uv's names) builds for GPUs.
FROM python:3.11-slim AS build

ARG TORCH_BACKEND=cpu
ENV UV_NO_CACHE=1
RUN pip install --no-cache-dir uv && python -m venv /srv/paretopath
ENV VIRTUAL_ENV=/srv/paretopath
WORKDIR /src

COPY pyproject.toml constraints.txt ./
RUN uv pip install --torch-backend=${TORCH_BACKEND} -c constraints.txt --extra parquet --extra ray -r pyproject.toml
COPY README.md ./
COPY engine engine
COPY storage storage
COPY app app
RUN uv pip install --no-deps .

FROM python:3.11-slim

RUN useradd --uid 10001 --create-home paretopath && install -d -o paretopath -g paretopath /data
COPY --from=build /srv/paretopath /srv/paretopath
ENV PATH=/srv/paretopath/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    PARETOPATH_HOST=0.0.0.0 \
    PARETOPATH_PORT=8000 \
    PARETOPATH_DATA_DIR=/data

USER paretopath
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 \
    CMD python -c "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PARETOPATH_PORT\"]}/readyz', timeout=4)"

ENTRYPOINT ["paretopath"]
CMD ["serve"]

# voxweft as a container: docker build -t voxweft . ; docker run --rm -v "$PWD:/data" voxweft run /data/in.zarr /data/out.zarr -m M
#
# For GPUs: --build-arg TORCH_BACKEND=cu128, or a base image with CUDA, --build-arg BASE_IMAGE=..., which must have
# Python 3.11 or later and pip; TORCH_BACKEND=auto takes what fits the GPU of the machine that builds.
ARG BASE_IMAGE=python:3.11-slim
FROM ${BASE_IMAGE}
ARG TORCH_BACKEND=cpu
ENV PYTHONUNBUFFERED=1

RUN python -m pip install --no-cache-dir --root-user-action=ignore uv

WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN uv pip install --system --no-cache --torch-backend="$TORCH_BACKEND" ".[all]" \
    && rm -rf /build/*

RUN useradd --create-home --uid 1000 voxweft
USER voxweft
WORKDIR /home/voxweft
ENTRYPOINT ["voxweft"]

# An image for training, evaluation and rendering without a display.
#
#   docker build -t specmpc .                                  for a CPU
#   docker build -t specmpc-cuda --build-arg ACCELERATOR=cuda .   for an NVIDIA GPU
#   docker run --rm -v "$PWD/out:/specmpc/out" specmpc python -m experiments.demo --quick --output_dir=out
#   docker run --rm --gpus=all specmpc-cuda python -m experiments.evaluate --device=cuda --checkpoint=bundled:walker-walk-1m
#
# CUDA's libraries come with JAX; the host gives the driver (NVIDIA Container Toolkit).
# `python tools/run_image_steps.py` runs these steps without a container engine.

ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# cpu or cuda; further extras of pyproject.toml, such as ",convert", may follow.
ARG ACCELERATOR=cpu
ARG EXTRAS=

# OpenGL in software for rendering on a CPU, make for the targets, git for provenance.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libegl1 libgl1 libgl1-mesa-dri libosmesa6 make git \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /specmpc
ENV PATH="/specmpc/.venv/bin:${PATH}" \
    XDG_CACHE_HOME="/specmpc/.cache" \
    NVIDIA_DRIVER_CAPABILITIES="compute,utility,graphics"

# Dependencies change less often than the code: they are a layer of their own.
COPY pyproject.toml requirements.txt README.md LICENSE ./
COPY specmpc_jax/__init__.py specmpc_jax/__init__.py
RUN python3 -m venv .venv
RUN extras="$(echo "${ACCELERATOR}${EXTRAS}" | sed 's/^cpu,\{0,1\}//')" \
 && .venv/bin/pip install --no-cache-dir --constraint requirements.txt --editable ".${extras:+[$extras]}"

COPY Makefile CHANGELOG.md CITATION.cff ./
COPY specmpc_jax specmpc_jax
COPY converters converters
COPY experiments experiments
COPY docs docs
COPY tests tests
RUN .venv/bin/pip install --no-cache-dir --no-deps --editable .

# The image is no good if it cannot load a teacher, act and draw.
RUN .venv/bin/python docs/examples/smoke.py

CMD ["python", "-m", "experiments.demo", "--quick", "--output_dir=out"]

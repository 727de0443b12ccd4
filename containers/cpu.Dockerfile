# quantcore with every backend and engine that a CPU can run; from the project's root folder:
#   docker build -f containers/cpu.Dockerfile -t quantcore .
# PyPI's torch brings CUDA's libraries, which a CPU has no need of; `--build-arg TORCH_INDEX=URL` takes
# torch from the index of CPU wheels that its installation page names, and saves gigabytes.
#   docker run --rm -v "$PWD:/work" quantcore demo
FROM python:3.11-slim

# OpenCV's headless wheel and OpenMP of the frameworks need these two.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
COPY . /opt/quantcore
WORKDIR /opt/quantcore
ARG TORCH_INDEX=
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[openvino]" \
    models/yolo models/onnx backends/pytorch_quantization backends/paddle plugins/onnxruntime
RUN useradd --create-home person
USER person
WORKDIR /work
ENTRYPOINT ["quantcore"]
CMD ["--help"]

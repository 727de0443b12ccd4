# quantcore on an NVIDIA GPU: torch with CUDA, TensorRT, cuda-python; from the project's root folder:
#   docker build -f containers/nvidia.Dockerfile -t quantcore-gpu .
#   docker run --rm --gpus all -v "$PWD:/work" quantcore-gpu demo --backend pytorch-quantization
# What only a GPU can tell, in one table:
#   docker run --rm --gpus all -v "$PWD:/work" --entrypoint python quantcore-gpu \
#       /opt/quantcore/benchmarks/gpu.py --out /work/gpu.md
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
COPY . /opt/quantcore
WORKDIR /opt/quantcore
# PyPI's torch brings CUDA's libraries with it; the driver is the host's (nvidia-container-toolkit).
RUN pip install --no-cache-dir ".[tensorrt-enterprise,gpu]" models/yolo models/onnx \
    backends/pytorch_quantization plugins/onnxruntime "pytest>=8"
RUN useradd --create-home person
USER person
WORKDIR /work
ENTRYPOINT ["quantcore"]
CMD ["--help"]

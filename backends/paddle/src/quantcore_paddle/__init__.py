"""PaddlePaddle's post-training quantization as a quantcore backend."""

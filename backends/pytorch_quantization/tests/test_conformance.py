import pytest

from quantcore.testing import BackendConformance

pytest.importorskip("pytorch_quantization")


class TestConformance(BackendConformance):
    @pytest.fixture
    def backend(self) -> str:
        return "pytorch-quantization"

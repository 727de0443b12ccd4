"""The whole contract."""

import pytest

from quantcore.testing import BackendConformance

pytest.importorskip("quantcore_backend_modelopt")


class TestConformance(BackendConformance):
    @pytest.fixture
    def backend(self) -> str:
        return "modelopt"

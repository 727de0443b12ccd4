"""The whole contract."""

import pytest

from quantcore.testing import BackendConformance

pytest.importorskip("quantcore_backend_nncf")


class TestConformance(BackendConformance):
    @pytest.fixture
    def backend(self) -> str:
        return "nncf"

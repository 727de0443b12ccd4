"""The whole test suite: one subclass."""

import pytest

from quantcore.testing import BackendConformance

pytest.importorskip("quantcore_backend_template")


class TestConformance(BackendConformance):
    @pytest.fixture
    def backend(self) -> str:
        return "template"

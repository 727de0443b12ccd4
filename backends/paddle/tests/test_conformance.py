from __future__ import annotations

import pytest

from quantcore.testing import BackendConformance


class TestConformance(BackendConformance):
    @pytest.fixture
    def backend(self) -> str:
        return "paddle"

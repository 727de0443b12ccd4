"""Every executor that comes with quantcore keeps what executors promise."""

from __future__ import annotations

import pytest

from quantcore.runtime.executor import LocalExecutor
from quantcore.testing import ExecutorConformance


class TestLocal(ExecutorConformance):
    @pytest.fixture(scope="class")
    def executor(self):
        with LocalExecutor(2) as executor:
            yield executor


class TestDask(ExecutorConformance):
    @pytest.fixture
    def executor(self, dask):
        return dask

"""One Dask cluster of two workers on loopback for all tests here, and links without any network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quantcore.executors.dask import DaskExecutor


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        local_directory=str(tmp_path_factory.mktemp("dask")),
        memory_limit="2GB",
    ) as found:
        yield found


@pytest.fixture(scope="session")
def dask(cluster) -> Iterator[DaskExecutor]:
    with cluster.get_client() as client, DaskExecutor(client) as executor:
        yield executor

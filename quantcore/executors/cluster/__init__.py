"""Jobs on many machines, whatever connects them: parcels, workers, shares, faults.

An executor of one's own gives a `Link`, which lists workers and calls a function on one of them;
`ClusterExecutor` does the rest.
"""

from quantcore.executors.cluster.crew import ClusterOptions
from quantcore.executors.cluster.executor import ClusterExecutor
from quantcore.executors.cluster.link import Link, WorkerAt, WorkerLost
from quantcore.executors.cluster.post import Post

__all__ = ["ClusterExecutor", "ClusterOptions", "Link", "Post", "WorkerAt", "WorkerLost"]

"""What an executor has to give: which workers there are, and a function called on one of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from quantcore.errors import ExecutorError
from quantcore.executors.cluster import post
from quantcore.executors.cluster.post import Post


class WorkerLost(ExecutorError):  # noqa: N818 - reads as the state it reports
    """A worker is gone in the middle of a call."""


@dataclass(frozen=True)
class WorkerAt:
    """A worker that is there.

    Attributes:
        id: Of the process: one that was started again has another.
        name: For people; one that was started again may have the same.
    """

    id: str
    name: str


#: What is called on a worker: is given where it stands, and bytes.
Called = Callable[..., bytes]


class Link(ABC):
    """The way to some workers. Methods may be called from any thread."""

    @abstractmethod
    def workers(self) -> Mapping[str, WorkerAt]:
        """The workers that are there now, by id.

        Raises:
            ExecutorError: Whoever knows them cannot be reached.
        """

    @abstractmethod
    def call(self, worker: WorkerAt, function: Called, *arguments: bytes) -> Future[bytes]:
        """Calls `function(post, *arguments)` on a worker, `post` being its `Post`.

        A worker should answer while another call runs there, for it is asked how far that one is.

        Args:
            worker: The worker.
            function: Of a module.
            arguments: Bytes.

        Returns:
            A future; cancelling it makes the post's `wanted` false over there. Where the worker is
            lost it need not ever end.
        """

    def keep(self, worker: WorkerAt, parts: Mapping[str, bytes]) -> Future[bytes]:
        """Has parts of jobs kept by a worker; a link may have a better way for large ones.

        Args:
            worker: The worker.
            parts: By name.
        """
        return self.call(worker, post.keep, *(x for n, c in parts.items() for x in (n.encode(), c)))

    def describe(self) -> str:
        """For people: where the workers are, and where they can be watched."""
        return ""

    def close(self) -> None:
        """Lets go of what is held; safe to call twice."""
        return


__all__ = ["Called", "Link", "Post", "WorkerAt", "WorkerLost"]

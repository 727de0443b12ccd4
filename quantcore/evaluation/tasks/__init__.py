"""What networks are for: how what they find is scored, named by their decoding."""

from quantcore.errors import ModelError
from quantcore.evaluation.tasks.classification import Classification
from quantcore.evaluation.tasks.detection import Detection
from quantcore.evaluation.tasks.task import Scores, Task
from quantcore.ir.model import FloatModel

__all__ = ["Classification", "Detection", "Scores", "Task", "task_of"]

_TASKS: dict[str, Task] = {task.name: task for task in (Detection(), Classification())}


def task_of(model: FloatModel) -> Task:
    """What a model is for, as its decoding says.

    Raises:
        ModelError: No such task.
    """
    name = model.decoding.task
    if name not in _TASKS:
        known = ", ".join(_TASKS)
        raise ModelError(
            f"{model.name}: decoding {model.decoding.kind!r} is for the task {name!r}; quantcore "
            f"scores {known}"
        )
    return _TASKS[name]

"""The errors of jobs become the exceptions that they stand for."""

from __future__ import annotations

from modelkeep.exceptions import BY_REASON, ModelkeepError
from modelkeep.server.v1 import job_pb2


def exception_of(error: job_pb2.JobError) -> ModelkeepError:
    """The exception that a job's error stands for; not raised, since the job failed and not the call."""
    cls = BY_REASON.get(error.reason, ModelkeepError)
    return cls(error.message, metadata=error.metadata)

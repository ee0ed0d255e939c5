"""Half price: OpenAI's Batch API behind the journal.

A job is cut into parts. Each part is one file, and at most one batch at a time. Every step of a
part is written into the journal before the server is asked, so that any process can go on from
there after a crash. `decisions.next_step` says what to do, and `answers.read_line` what an answer
means. The texts are not in the journal: they stay in the part's file at the server until its
answers are in the journal, and what has to be sent again is read from there.

`worker` takes each part of a job through its steps. `supply` finds texts and uploads files,
`batches` asks for batches, `collect` reads answers, `successors` puts what is left into new parts,
and `ordinary` sends what is late.
"""

from langchain_batch_embed.batch_api.desk import Desk
from langchain_batch_embed.batch_api.job import Job
from langchain_batch_embed.batch_api.status import JobReport, JobStatus

__all__ = ["Desk", "Job", "JobReport", "JobStatus"]

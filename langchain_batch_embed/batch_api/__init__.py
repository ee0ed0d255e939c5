"""Embeddings at half price: OpenAI's Batch API, with the journal to store the results.

A job is cut into parts. Each part is one file, and has at most one batch at a time. Every step of a
part is written into the journal before the request is sent, so that any process can continue from
there after a crash. `decisions.next_step` chooses the next step, and `answers.read_line` interprets
an answer. The journal does not hold the texts. They stay in the part's file at the server until the
part's answers are in the journal, and texts that have to be sent again are read from that file.

`worker` takes each part of a job through its steps. `supply` finds texts and uploads files,
`batches` creates and polls batches, `collect` reads answers, `successors` puts unanswered lines
into new parts, and `ordinary` sends late texts by ordinary requests. `on_the_way` warns of ordinary
calls for texts that a job has.
"""

from langchain_batch_embed.batch_api.desk import Desk
from langchain_batch_embed.batch_api.job import Job
from langchain_batch_embed.batch_api.on_the_way import OnTheWay
from langchain_batch_embed.batch_api.status import JobReport, JobStatus

__all__ = ["Desk", "Job", "JobReport", "JobStatus", "OnTheWay"]

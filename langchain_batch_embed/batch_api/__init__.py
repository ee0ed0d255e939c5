"""Half price: OpenAI's Batch API behind the journal.

A job is cut into parts, of which each is one file and at any time at most one batch. Everything
about a part is in the journal before it happens at the server, so that any process can go on from
there after a crash: with `decisions.next_step` for what to do, and with `answers.sort` for what an
answer means. The texts are not in the journal. They are in the part's file at the server until its
answers are in the journal, and what has to be sent again is read back from there.
"""

from langchain_batch_embed.batch_api.desk import Desk
from langchain_batch_embed.batch_api.job import Job
from langchain_batch_embed.batch_api.status import JobReport, JobStatus

__all__ = ["Desk", "Job", "JobReport", "JobStatus"]

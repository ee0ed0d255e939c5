"""Reports of what a call did and cost, with their counts, prices and number formats."""

from langchain_batch_embed.report.account import Account
from langchain_batch_embed.report.call import DeploymentReport, Report, Usage
from langchain_batch_embed.report.counts import Tally
from langchain_batch_embed.report.ingest import IngestFailure, IngestReport
from langchain_batch_embed.report.prices import (
    BATCH_API_SHARE,
    DOLLARS_PER_MILLION_TOKENS,
    PRICES_FROM,
    dollars,
)
from langchain_batch_embed.report.wording import (
    amount,
    duration,
    html_table,
    money,
    name_indices,
    plural,
)

__all__ = [
    "BATCH_API_SHARE",
    "DOLLARS_PER_MILLION_TOKENS",
    "PRICES_FROM",
    "Account",
    "DeploymentReport",
    "IngestFailure",
    "IngestReport",
    "Report",
    "Tally",
    "Usage",
    "amount",
    "dollars",
    "duration",
    "html_table",
    "money",
    "name_indices",
    "plural",
]

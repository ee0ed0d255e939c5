"""A local embeddings server with OpenAI's limits, quotas, latency and faults, for rehearsals.

The server runs in its own process and needs the extra `demo`:

    with Simulator(Scenario(tier=1, faults={"429": 0.08})) as simulator:
        embeddings = OpenAIEmbeddings(base_url=simulator.url, api_key="any")

For clients in any language, run `python -m langchain_batch_embed.simulator --tier 1`.
"""

from .batch_scenario import BatchApi
from .process import Simulator, serve
from .quota import Bucket
from .scenario import FAULTS, TIERS, Scenario
from .vectors import vectors

__all__ = ["FAULTS", "TIERS", "BatchApi", "Bucket", "Scenario", "Simulator", "serve", "vectors"]

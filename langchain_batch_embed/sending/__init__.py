"""Who sends: a pure queue of one call's batches, a pure choice of turns, and one dispatcher."""

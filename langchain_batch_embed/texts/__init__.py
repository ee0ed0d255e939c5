"""Prepares what is sent: inputs, their token counts, and batches of them."""

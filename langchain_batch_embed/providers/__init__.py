"""How one batch is sent: OpenAI, every other class, and what is read of their answers."""

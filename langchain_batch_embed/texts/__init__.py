"""What is sent: inputs, their tokens, and how they are cut into batches."""

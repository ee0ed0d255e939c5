"""Many documents into a vector store."""

"""Writes any number of documents into a vector store."""

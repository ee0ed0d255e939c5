"""One call: from texts to vectors, and what it keeps."""

"""One call, from texts to vectors, and the finished vectors that it keeps."""

"""One account's quota for many processes and machines, kept in Redis or Valkey."""

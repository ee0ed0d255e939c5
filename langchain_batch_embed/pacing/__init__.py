"""When a request is sent, and whether it is sent again: pure arithmetic, told the time."""

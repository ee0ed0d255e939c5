"""The command-line interface and the demo."""

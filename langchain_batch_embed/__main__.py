"""Runs the command line: `python -m langchain_batch_embed --help`."""

from langchain_batch_embed.commands.main import main

if __name__ == "__main__":
    main()

"""``python -m gptscratch``: the command line."""

from gptscratch.cli.app import main

if __name__ == "__main__":
    main()

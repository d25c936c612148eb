"""``python -m gptscratch``, and so ``torchrun -m gptscratch train ...``."""

from gptscratch.cli.app import main

if __name__ == "__main__":
    main()

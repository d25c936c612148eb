"""The plan: sizes, rates and intervals chosen for the corpus, the machine and the time."""

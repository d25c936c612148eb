"""What is made of trained runs: a page with curves, a comparison, logs for other programs."""

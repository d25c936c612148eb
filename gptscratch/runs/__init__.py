"""Everything about a run's folder on disk.

folder: name, lock     run: config.json    checkpoint: parameters, optimizer, state; best.json, last.json
run_tokens: the tokens it learned from  metrics: metrics.jsonl        summary: what ``info`` shows
"""

"""Everything about a run's folder on disk.

run: its name, lock, config.json        checkpoint: parameters, optimizer, state; best.json, last.json
run_tokens: the tokens it learned from  metrics: metrics.jsonl        summary: what ``info`` shows
"""

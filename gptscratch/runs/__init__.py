"""Everything about a run folder: create, save, load, find, list."""

"""The command line. typer and rich are used only here; no command imports torch before it runs."""

"""The command line. typer and rich live here and nowhere else; no command imports torch before it runs."""

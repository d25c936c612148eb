"""Other programs' names and shapes for the same model. The model never imports this room."""

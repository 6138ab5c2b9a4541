"""`ftkit init`: projects from templates, and their updates."""

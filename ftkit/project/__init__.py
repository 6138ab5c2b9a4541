"""`ftkit init`: create projects from templates, and update them."""

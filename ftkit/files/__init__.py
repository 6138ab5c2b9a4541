"""Files: atomic writes, identity by content, file types, JSON, the user's cache folder."""

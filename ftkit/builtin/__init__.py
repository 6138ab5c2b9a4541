"""Built-in plugins; they use `ftkit.api` alone, as any plugin does."""

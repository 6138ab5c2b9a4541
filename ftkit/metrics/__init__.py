"""Classification metrics and their bootstrap intervals."""

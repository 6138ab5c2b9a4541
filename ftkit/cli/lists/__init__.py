"""What `ftkit KIND list` shows: selection, stored lists, paging."""

"""The activation cache: the output of a frozen prefix, computed once per image and read by later epochs and runs."""

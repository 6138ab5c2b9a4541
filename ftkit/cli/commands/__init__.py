"""One command a file: parse the options, call one function, print its result."""

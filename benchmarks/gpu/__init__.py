"""Ten minutes with a GPU: is it right there, is it fast, how much fits, can it train."""

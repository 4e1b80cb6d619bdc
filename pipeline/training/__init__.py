"""How the weights that ship with us were made, and how to make others. Needs torch."""

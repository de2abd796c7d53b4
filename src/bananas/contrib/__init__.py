"""What ties Bananas to other libraries: one module each, imported by who uses it."""

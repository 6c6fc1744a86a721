"""Microsoft 365 in a box, for the demo, the tests and for others."""

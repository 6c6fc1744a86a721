"""What all rooms agree upon: words, tables, the lane, settings."""

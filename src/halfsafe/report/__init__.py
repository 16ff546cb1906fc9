"""What was found, done and proved: plain data first, rendered later."""

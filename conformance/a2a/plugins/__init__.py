"""What is loaded into the kit's own test runner."""

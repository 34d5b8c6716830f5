"""What is passed on."""

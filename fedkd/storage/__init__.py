"""What is kept on disk: parameters past a budget, and files, whole or not at all."""

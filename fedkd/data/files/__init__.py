"""Data sets in the files that their authors made, laid out as torchvision stores them."""

"""Directories as the libraries of Hugging Face write and read them."""

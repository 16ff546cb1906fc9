"""Watching an eager model while it runs."""

"""Configurations to start from: files to copy, not modules to import."""

"""Servers that generate text."""

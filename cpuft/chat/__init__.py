"""Conversations as text: templates, and which tokens are the answer."""

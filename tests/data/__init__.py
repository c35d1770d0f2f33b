"""Datasets, chat templates, masks and batches."""

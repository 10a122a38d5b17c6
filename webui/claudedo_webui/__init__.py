"""The page: static files the worker serves.

It draws state and sends requests; it decides nothing.
"""

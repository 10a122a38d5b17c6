"""Measurements. They print figures and fail only when what they measure does not work."""

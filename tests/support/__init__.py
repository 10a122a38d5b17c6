"""What tests need beside the product: real programs in throw-away surroundings."""

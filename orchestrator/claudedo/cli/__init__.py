"""The person's commands: one file per group, and `render` for everything that is printed."""
